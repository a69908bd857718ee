"""A simulator over two real worker processes, and samples to run on it."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caligo_simulator.epr.source import TILE
from caligo_simulator.harness import ProtocolHarness, Setup
from caligo_simulator.simulation import DesignRow, Simulator

from caligo.phases import Phase
from caligo.space import LOG_COLUMNS, ExplorationSample, Strategy
from caligo.spec import PhysicsSpec, ProtocolSpec

SECURE = ExplorationSample(
    index=0, r=0.1, nu=0.1, dt_ns=1e9, F=0.99, eta=0.9, e_det=0.002, P_dark=1e-7, N=60_000, strategy=Strategy.BASELINE
)
"""Well inside the secure region, a few frames long."""


def design_row(sample: ExplorationSample) -> DesignRow:
    """A sample as the row it came from."""
    values = np.array(dataclasses.astuple(sample)[1:], dtype=np.float64)
    values[list(LOG_COLUMNS)] = np.log10(values[list(LOG_COLUMNS)])
    return sample.index, values.astype(np.float32)


@pytest.fixture(scope="session")
def segments_of() -> Callable[[str], list[str]]:
    """Names in /dev/shm of a namespace."""
    return lambda namespace: [path.name for path in Path("/dev/shm").glob(f"caligo-{namespace}-*")]


@pytest.fixture(scope="session")
def namespace(segments_of: Callable[[str], list[str]]) -> Iterator[str]:
    """A name in /dev/shm of this run's own; nothing may be left under it in the end."""
    name = f"test-{secrets.token_hex(4)}"
    yield name
    assert segments_of(name) == []


@pytest.fixture(scope="session")
def simulator(namespace: str) -> Iterator[Simulator]:
    with Simulator(workers=2, segment_pairs=4 * TILE, namespace=namespace, verify_segments=True) as running:
        yield running
        assert running.arena.free_slots() == running.arena.slots


@pytest.fixture
def harness(simulator: Simulator) -> ProtocolHarness:
    return ProtocolHarness(simulator.orchestrator)


@pytest.fixture
def make_setup() -> Callable[..., Setup]:
    """A setup with chosen `physics` and `protocol` values; the wait has no effect unless asked for."""

    def make(seed: int = 1, physics: dict[str, Any] | None = None, protocol: dict[str, Any] | None = None) -> Setup:
        return Setup(
            campaign="campaigns/test",
            seed=seed,
            phase=Phase.LHS,
            physics=PhysicsSpec(**{"memory_model": "fixed", **(physics or {})}),
            protocol=ProtocolSpec(**(protocol or {})),
        )

    return make


@pytest.fixture
def setup(make_setup: Callable[..., Setup]) -> Setup:
    return make_setup()


@pytest.fixture
def secure() -> Callable[..., ExplorationSample]:
    """`SECURE` with some values replaced."""
    return lambda **changes: dataclasses.replace(SECURE, **changes)


@pytest.fixture
def as_row() -> Callable[[ExplorationSample], DesignRow]:
    return design_row
