"""One real campaign, as a user runs it: four services, real physics, the same rows every time, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from caligo.dataset import open_campaign
from caligo.results import ProtocolOutcome

SPEC = """
name: small
seed: 11
space: {bounds: {N: [3.2e+4, 3.0e+5], eta: [0.2, 1.0]}}
protocol: {max_decoded_frames: 8}
surrogate: {training_steps: 30}
guardrail: {threshold: 0.6, audit_fraction: 0.1}
lhs: {samples: 40}
active: {samples: 12, batch_size: 4}
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("e2e")
    (path / "spec.yaml").write_text(SPEC)
    return path


def caligo(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).with_name("caligo")), *map(str, arguments)]


def segments() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("caligo*")}


def children(of: str) -> list[str]:
    """Command lines of processes that mention a path."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if of in line and int(process.name) != os.getpid():
                found.append(line)
    return found


def run(directory: Path, output: str) -> tuple[dict, dict[str, np.ndarray]]:
    before = segments()
    ended = subprocess.run(
        caligo("run", directory / "spec.yaml", "--output", directory / output, "--json"),
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert segments() <= before
    assert children(str(directory / output)) == []
    file = directory / output / "campaigns" / "small" / "exploration_data.h5"
    with h5py.File(file) as h5:
        tables = {f"{g}/{d}": h5[g][d][...] for g in h5 for d in h5[g]}
    return json.loads(ended.stdout.splitlines()[-1]), tables


@pytest.fixture(scope="module")
def first(directory: Path) -> tuple[dict, dict[str, np.ndarray]]:
    return run(directory, "first")


def test_every_row_is_there_and_no_float64(first) -> None:
    _, tables = first
    assert {str(t.dtype) for t in tables.values()} == {"float32", "int64", "uint8"}
    outcome = tables["lhs_warmup/outcome"]
    assert (outcome != ProtocolOutcome.SKIPPED_INFEASIBLE).sum() == 40
    assert len(tables["active_learning/outcome"]) == 12
    everything = np.concatenate([outcome, tables["active_learning/outcome"]])
    assert np.isin(everything, [int(o) for o in ProtocolOutcome]).all()
    assert not np.isin(everything, [ProtocolOutcome.FAILURE_ERROR, ProtocolOutcome.FAILURE_TIMEOUT]).any()
    for phase in ("lhs_warmup", "active_learning"):
        margin = tables[f"{phase}/metrics"][:, 1]
        key = tables[f"{phase}/counts"][:, 6]
        succeeded = tables[f"{phase}/outcome"] == ProtocolOutcome.SUCCESS
        assert np.isfinite(margin).all()
        assert (margin >= -1).all()
        assert ((key > 0) == succeeded).all()
        # A key of one bit stands behind a margin just above zero; below zero there is none.
        assert (margin[succeeded] > 0).all()


def test_both_sides_of_the_cliff_are_found(first) -> None:
    _, tables = first
    succeeded = tables["lhs_warmup/outcome"] == ProtocolOutcome.SUCCESS
    assert 0 < succeeded.sum() < 40


def test_the_same_spec_gives_the_same_rows(directory, first) -> None:
    _, again = run(directory, "second")
    for name, table in first[1].items():
        other = again[name]
        if name.endswith("/metrics"):
            table, other = table[:, :-1], other[:, :-1]  # wall_seconds
        assert table.tobytes() == other.tobytes(), name


def test_report_and_findings(directory, first) -> None:
    found, tables = first
    assert (directory / "first/campaigns/small/report/report.md").exists()
    with open_campaign(directory / "first/campaigns/small/exploration_data.h5") as campaign:
        assert campaign.spec.seed == 11
    simulated = sum(int((tables[f"{p}/outcome"] < 7).sum()) for p in ("lhs_warmup", "active_learning"))
    assert f'"simulated": {simulated}' in json.dumps(found)


def test_ctrl_c_stops_cleanly_and_resuming_ends_in_the_same_rows(directory, first) -> None:
    before = segments()
    command = caligo("run", directory / "spec.yaml", "--output", directory / "third")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = directory / "third" / "journal.sqlite3"
    deadline = time.monotonic() + 120
    while not journal.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    if process.returncode != 0:  # 0: it was quicker than we were
        assert process.returncode == 130, errors
        assert "--resume" in output + errors
        assert segments() <= before
        assert children(str(directory / "third")) == []
        resumed = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=280)
        assert resumed.returncode == 0, resumed.stderr
    with h5py.File(directory / "third/campaigns/small/exploration_data.h5") as h5:
        for phase in ("lhs_warmup", "active_learning"):
            for name in ("inputs", "counts", "outcome", "reason", "index"):
                assert h5[phase][name][...].tobytes() == first[1][f"{phase}/{name}"].tobytes(), (phase, name)
