"""The choice of NetSquid as the source, with and without it; what it makes is put to the tests of `test_source.py`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from caligo_simulator.epr import registry
from caligo_simulator.epr.registry import installed_sources, make_source
from caligo_simulator.epr.source import Link
from caligo_simulator.harness import ProtocolHarness, Setup
from caligo_simulator.simulation import DesignRow, Simulator

from caligo.errors import InvalidArgument
from caligo.results import ProtocolOutcome
from caligo.space import ExplorationSample

SENTENCE = (
    "netsquid is not installed (NetSquid is licensed and has its own package index, see docs/netsquid.md); "
    "installed: statistical"
)

# --- without NetSquid -----------------------------------------------------------------------------------------------


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: name == "numpy" or None)


@pytest.mark.usefixtures("absent")
def test_one_sentence_says_what_is_missing() -> None:
    assert list(installed_sources()) == ["statistical"]
    with pytest.raises(InvalidArgument) as error:
        make_source("netsquid")
    assert [(v.field, v.allowed) for v in error.value.violations] == [("protocol.epr_source", SENTENCE)]


@pytest.mark.usefixtures("absent")
def test_a_stream_that_asks_for_it_is_refused_before_its_first_row(
    simulator: Simulator,
    make_setup: Callable[..., Setup],
    secure: Callable[..., ExplorationSample],
    as_row: Callable[[ExplorationSample], DesignRow],
) -> None:
    read = []

    def rows() -> object:
        read.append(True)
        yield as_row(secure())

    with pytest.raises(InvalidArgument, match=r"^protocol\.epr_source: netsquid is not installed"):
        next(iter(simulator.simulate(make_setup(protocol={"epr_source": "netsquid"}), rows())))
    assert read == []


def test_an_installation_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netsquid.py").write_text("raise TypeError('made for another NumPy')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("netsquid", "caligo_simulator.epr.netsquid"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert "netsquid" in installed_sources()
    with pytest.raises(InvalidArgument) as error:
        make_source("netsquid")
    assert str(error.value) == (
        "protocol.epr_source: netsquid is installed but cannot be imported: made for another NumPy"
    )


# --- with NetSquid --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fidelity", "convention", "weight"),
    [(1.0, "fidelity", 1.0), (0.97, "fidelity", 0.96), (0.7, "fidelity", 0.6), (0.7, "weight", 0.7)],
)
def test_the_pair_is_a_werner_state(fidelity: float, convention: str, weight: float) -> None:
    pytest.importorskip("netsquid", reason="NetSquid is not installed")
    from caligo_simulator.epr.netsquid import pair_state

    phi = np.array([1.0, 0.0, 0.0, 1.0]) / np.sqrt(2.0)
    werner = weight * np.outer(phi, phi) + (1.0 - weight) / 4.0 * np.eye(4)
    state = pair_state(Link(fidelity, 1.0, 0.0, 0.0, convention))  # type: ignore[arg-type]
    np.testing.assert_allclose(state, werner, atol=1e-12)


def test_a_sample_goes_through_the_protocol(
    harness: ProtocolHarness, make_setup: Callable[..., Setup], secure: Callable[..., ExplorationSample]
) -> None:
    pytest.importorskip("netsquid", reason="NetSquid is not installed")
    setup = make_setup(protocol={"epr_source": "netsquid", "time_limit_seconds": 250})
    first = harness.run(secure(N=30_000), setup)
    assert first.outcome is ProtocolOutcome.SUCCESS
    again = harness.run(secure(N=30_000), setup)
    assert (again.key_length, again.detected, again.leaked) == (first.key_length, first.detected, first.leaked)


def test_a_sample_that_takes_too_long_is_really_stopped(
    harness: ProtocolHarness, make_setup: Callable[..., Setup], secure: Callable[..., ExplorationSample]
) -> None:
    pytest.importorskip("netsquid", reason="NetSquid is not installed")
    started = time.monotonic()
    setup = make_setup(protocol={"epr_source": "netsquid", "time_limit_seconds": 1})
    assert harness.run(secure(N=100_000_000), setup).outcome is ProtocolOutcome.FAILURE_TIMEOUT
    assert time.monotonic() - started < 60
    assert harness.run(secure(), make_setup()).outcome is ProtocolOutcome.SUCCESS
