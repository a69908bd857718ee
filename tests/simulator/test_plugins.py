"""Sources of others: found by name, checked, guarded, and what becomes of rows where they fail."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from caligo_simulator.epr.conformance import Workers, check
from caligo_simulator.epr.registry import installed_sources, make_source
from caligo_simulator.epr.source import BobBases, Link, Segment, segment_bytes
from caligo_simulator.harness import Setup
from caligo_simulator.simulation import DesignRow, Simulator

from caligo.errors import InvalidArgument
from caligo.physics.device import Device
from caligo.results import ProtocolOutcome, Reason, ResultRows
from caligo.space import ExplorationSample

TEMPLATE = Path(__file__).parents[2] / "examples" / "epr-source"
CALIGO = str(Path(sys.executable).parent / "caligo")
LINK = Link(0.98, 0.5, 0.01, 1e-6, "fidelity")
HEAD = """
import os, time
import numpy as np
from example_source import ExampleSource
"""
BROKEN = {
    "few": "segment.bob_click[:] = 2 * (np.arange(segment.bob_click.size) % 7 > 0)\nsegment.bob_click[-5:] = 99",
    "values": "super().fill(segment, link, bob, key, start)\nsegment.alice_bit[:] = 7",
    "shape": "segment.bob_click[:] = np.zeros(3, np.int8)",
    "raises": "raise RuntimeError('no licence')",
    "random": "super().fill(segment, link, bob, int(np.random.default_rng().integers(2**60)), start)",
    "dies": "os._exit(3)",
    "hangs": "time.sleep(600)",
    "process": "super().fill(segment, link, bob, key + os.getpid(), start)",
    "tilted": (
        "super().fill(segment, link, bob, key, start)\n"
        "side = segment.alice_basis - segment.bob_basis\n"
        "often = np.random.default_rng(key).random(side.size) < 0.2\n"
        "right = (side == -1) & (segment.bob_click == segment.alice_bit)\n"
        "wrong = (side == 1) & (segment.bob_click == 1 - segment.alice_bit)\n"
        "segment.bob_click[often & (right | wrong)] ^= 1"
    ),
}
"""Bodies of `fill` that do not do what they must."""
UNNOTICED = ("process", "tilted")
"""Those that only the check finds."""


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template package as pip installs it, and a package of broken sources beside it."""
    target = tmp_path_factory.mktemp("sources")
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(target)]
    copy = tmp_path_factory.mktemp("template")
    for file in TEMPLATE.glob("*.*"):
        (copy / file.name).write_text(file.read_text("utf-8"), "utf-8")
    subprocess.run([sys.executable, *command, str(copy)], check=True, timeout=120)
    classes = [
        f"class {name.title()}(ExampleSource):\n"
        f"    def fill(self, segment, link, bob, key, start):\n{textwrap.indent(body, ' ' * 8)}\n"
        for name, body in BROKEN.items()
    ]
    (target / "broken_sources.py").write_text(HEAD + "\n".join(classes), "utf-8")
    metadata = target / "broken_sources-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-sources\nVersion: 0.1\n", "utf-8")
    points = "".join(f"broken-{name} = broken_sources:{name.title()}\n" for name in BROKEN)
    points += "broken-import = broken_sources_that_are_not_there:Source\n"
    (metadata / "entry_points.txt").write_text(f"[caligo.epr_sources]\n{points}", "utf-8")
    return target


@pytest.fixture
def here(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(packages)


@pytest.fixture(scope="module")
def with_packages(packages: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run a command where the packages are installed."""
    environment = {**os.environ, "PYTHONPATH": str(packages)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=240, check=False
        )

    yield run


def test_the_template_is_short() -> None:
    lines = sum(len(file.read_text("utf-8").splitlines()) for file in TEMPLATE.glob("*.*"))
    assert lines < 60


def test_the_template_passes_the_check(with_packages: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = with_packages(CALIGO, "check", "source", "example", "--json")
    assert done.returncode == 0, done.stderr
    checks = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(checks) > 30 and all(check["passed"] for check in checks)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("few", "nothing is raised: ValueError: the source broken-few has made too few rounds"),
        ("values", "nothing is raised: ValueError: the source broken-values has put something else than 0 and 1"),
        ("random", "rounds differ"),
        ("raises", "nothing is raised: SourceError: RuntimeError: no licence"),
        ("dies", "nothing is raised: WorkerLostError: 3 EPR workers died"),
        ("process", "the same rounds again, from a source made anew"),
        ("tilted", "errors where Alice has Z and Bob X"),
    ],
)
def test_the_check_says_what_fails(
    name: str, what: str, with_packages: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = with_packages(CALIGO, "check", "source", f"broken-{name}")
    assert done.returncode == 5, done.stdout + done.stderr
    lines = done.stdout.splitlines() + done.stderr.splitlines()
    assert any(line.startswith("FAIL") and what in line for line in lines)
    assert f"the source broken-{name} fails " in done.stderr.splitlines()[-1]


@pytest.mark.usefixtures("here")
def test_the_check_ends_a_source_that_hangs() -> None:
    with Workers("broken-hangs", 1_000, seconds=0.5) as workers:
        (finding,) = check(lambda: workers, 1_000)
    assert not finding.passed
    assert finding.detail == "TimeoutError: 1000 rounds are not there after 0.5 s"


@pytest.mark.usefixtures("here")
def test_sources_are_found_by_metadata_alone() -> None:
    assert installed_sources()["example"] == "1.0"
    assert installed_sources()["broken-import"] == "0.1"
    assert "example_source" not in sys.modules


@pytest.mark.usefixtures("here")
def test_what_cannot_be_imported_says_so() -> None:
    with pytest.raises(InvalidArgument, match="broken-import is installed but cannot be imported: No module named"):
        make_source("broken-import")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("few", "has made too few rounds"),
        ("values", "something else than 0 and 1 into alice_bit"),
        ("random", "rounds differ"),
        ("shape", "broadcast"),
        ("raises", "no licence"),
    ],
)
def test_segments_that_are_none_are_refused(name: str, what: str) -> None:
    segment = Segment.over(np.empty(segment_bytes(5_000), np.uint8), 5_000)
    with pytest.raises((ValueError, RuntimeError), match=what):
        make_source(f"broken-{name}").fill(segment, LINK, BobBases(None, 0), 1, 0)


@pytest.mark.usefixtures("here")
def test_an_effect_that_a_source_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    segment = Segment.over(np.empty(segment_bytes(5_000), np.uint8), 5_000)
    sleepy = dataclasses.replace(LINK, device=Device(dead_rounds=3, modes=4.0))
    source = make_source("example")
    with pytest.raises(ValueError, match="the source example knows nothing of modes, dead_rounds"):
        source.fill(segment, sleepy, BobBases(None, 0), 1, 0)
    module = sys.modules["example_source"]
    monkeypatch.setattr(module.ExampleSource, "effects", {"modes", "dead_rounds"}, raising=False)
    source.fill(segment, sleepy, BobBases(None, 0), 1, 0)


ROWS = """
import sys, threading
from caligo_simulator.simulation import Simulator
from caligo_simulator.harness import Setup
from caligo.phases import Phase
from caligo.spec import PhysicsSpec, ProtocolSpec
import numpy as np

def main():
    inputs = np.array([0.1, -1.0, 9.0, 0.99, -0.05, 0.002, -7.0, 4.8, 0.0], np.float32)
    with Simulator(1, 2**20, sys.argv[1]) as simulator:
        for name in sys.argv[2:]:
            limit = 1.5 if name == "broken-hangs" else 60.0
            setup = Setup("c", 1, Phase.LHS, PhysicsSpec(), ProtocolSpec(epr_source=name, time_limit_seconds=limit))
            for row in simulator.simulate(setup, [(0, inputs)]):
                print("row", name, int(row["outcome"][0]), int(row["reason"][0]), flush=True)

if __name__ == "__main__":
    main()
"""


def test_rows_end_in_typed_outcomes_and_others_are_untouched(
    namespace: str, with_packages: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """One simulator, one worker, every broken source in turn; the statistical one works after each."""
    script = tmp_path / "rows.py"
    script.write_text(ROWS, "utf-8")
    names = [f"broken-{name}" for name in (*(name for name in BROKEN if name not in UNNOTICED), "import")]
    asked = ["example", *(name for broken in names for name in (broken, "statistical"))]
    done = with_packages(str(script), f"{namespace}-plugins", *asked)
    assert done.returncode == 0, done.stderr
    rows = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("row ")]
    assert [name for name, *_ in rows] == asked
    fault = [ProtocolOutcome.FAILURE_ERROR, Reason.SOURCE_FAULT]
    expected = dict.fromkeys(names, fault) | {
        "broken-dies": [ProtocolOutcome.FAILURE_ERROR, Reason.WORKER_LOST],
        "broken-hangs": [ProtocolOutcome.FAILURE_TIMEOUT, Reason.TIME_LIMIT],
        "example": [ProtocolOutcome.SUCCESS, Reason.NONE],
        "statistical": [ProtocolOutcome.SUCCESS, Reason.NONE],
    }
    for name, outcome, reason in rows:
        assert [int(outcome), int(reason)] == [int(code) for code in expected[name]], name


def test_a_slow_source_gives_rows(
    simulator: Simulator,
    make_setup: Callable[..., Setup],
    secure: Callable[..., ExplorationSample],
    as_row: Callable[[ExplorationSample], DesignRow],
) -> None:
    """SeQUeNCe through the whole protocol."""
    pytest.importorskip("sequence", reason="SeQUeNCe is not installed")
    setup = make_setup(protocol={"epr_source": "sequence"})
    rows: ResultRows = np.concatenate(list(simulator.simulate(setup, [as_row(secure(N=40_000))])))
    assert rows["outcome"][0] == ProtocolOutcome.SUCCESS
