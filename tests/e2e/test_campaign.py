"""One real campaign, as a user runs it: four services, real physics, the same rows every time, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from caligo import screening
from caligo.cli.embedded import embedded_services
from caligo.cli.interrupts import Interrupts
from caligo.client import CampaignClient
from caligo.dataset import open_campaign
from caligo.results import ProtocolOutcome, Reason, count, metric
from caligo.space import SYMBOLS

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


NAMESPACE = f"e2e-{secrets.token_hex(4)}"
"""Of the shared memory of these tests, so that simulators beside them do not count."""


@pytest.fixture(autouse=True, scope="module")
def _own_namespace() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALIGO_SIMULATOR_NAMESPACE", NAMESPACE)
        yield


def segments() -> list[str]:
    return [path.name for path in Path("/dev/shm").glob(f"caligo-{NAMESPACE}-*")]


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
    ended = subprocess.run(
        caligo("run", directory / "spec.yaml", "--output", directory / output, "--json"),
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert segments() == []
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


def test_a_real_guardrail_skips_what_the_closed_form_gives_up(directory, first) -> None:
    found, tables = first
    with open_campaign(directory / "first/campaigns/small/exploration_data.h5") as campaign:
        spec, rows, guardrail = campaign.spec, campaign.rows(), campaign.surrogate.guardrail
    skipped = rows["outcome"] == ProtocolOutcome.SKIPPED_PREDICTED_FAILURE
    ran = rows["outcome"] < ProtocolOutcome.SKIPPED_INFEASIBLE
    probability = 1 / (1 + np.exp(-screening.failure_log_odds(rows["inputs"], spec.physics, spec.protocol)))
    assert skipped.sum() >= 5
    assert (tables["lhs_warmup/outcome"] == ProtocolOutcome.SKIPPED_PREDICTED_FAILURE).any()
    assert (rows["reason"][skipped] == Reason.GUARDRAIL).all()
    assert (probability[skipped] > 0.9).all()  # the lowest threshold that is measured
    assert (metric(rows, "margin")[skipped] <= 0).all()
    assert not count(rows, "detected")[skipped].any()
    # What would be skipped and ran all the same was audited, and is evidence.
    assert guardrail is not None
    of_phase_1 = np.arange(len(rows)) < len(tables["lhs_warmup/outcome"])
    assert guardrail.audits <= (ran & of_phase_1 & (probability > 0.9)).sum()
    assert int(found["findings"]["skipped_predicted"]) == skipped.sum()
    assert float(found["findings"]["seconds_saved"]) > 0


@pytest.mark.slow  # a run that was interrupted gives them as well
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


def has_begun(journal: Path) -> bool:
    return journal.exists()


def fits_in_the_background(journal: Path) -> bool:
    """The third batch is proposed right after the first one's results have gone into a fit."""
    if not journal.exists():
        return False
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        tables = db.execute("SELECT name FROM sqlite_master").fetchall()
        return ("proposals",) in tables and db.execute("SELECT COUNT(*) FROM proposals").fetchone()[0] >= 3


def test_ctrl_c_stops_cleanly_and_resuming_ends_in_the_same_rows(directory, first) -> None:
    """Interrupted in phase 1, and once more while the surrogate fits in the background."""
    output = directory / "interrupted"
    command = caligo("run", directory / "spec.yaml", "--output", output, "--json")
    for moment, seconds in ((has_begun, 1.0), (fits_in_the_background, 0.0)):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 240
        while not moment(output / "journal.sqlite3") and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(seconds)
        assert segments() or process.poll() is not None
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
        if process.returncode == 0:  # it was quicker than we were
            break
        assert process.returncode == 130, errors
        assert "--resume" in out + errors
        assert segments() == []
        assert children(str(output)) == []
        command = [*command, "--resume"] if "--resume" not in command else command
    else:
        resumed = subprocess.run(command, capture_output=True, text=True, timeout=280)
        assert resumed.returncode == 0, resumed.stderr
        out = resumed.stdout
    answer = json.loads(out.splitlines()[-1])
    assert answer["state"] == "succeeded"
    assert Path(answer["report"]).exists()
    with h5py.File(output / "campaigns/small/exploration_data.h5") as h5:
        for group, name in (path.split("/") for path in first[1]):
            one, other = first[1][f"{group}/{name}"], h5[group][name][...]
            if name == "metrics":
                one, other = one[:, :-1], other[:, :-1]  # wall_seconds
            assert one.tobytes() == other.tobytes(), (group, name)


def test_an_ended_campaign_predicts_what_its_file_says(directory, first) -> None:
    """The model made again from the journal is the one that drew the slice at the end, to the last bit."""
    with (
        open_campaign(directory / "first/campaigns/small/exploration_data.h5") as campaign,
        Interrupts() as interrupts,
        embedded_services(directory / "first", interrupts) as services,
        CampaignClient(services.address) as client,
    ):
        cliff = campaign.surrogate.cliff
        assert cliff is not None
        x, y = (SYMBOLS[axis] for axis in cliff.axes)
        again = client.slice("small", x, y, points=len(cliff.x))
        calibration = campaign.surrogate.calibration
        findings = client.get("small").findings
    for name in ("at", "x", "y", "mean", "deviation"):
        np.testing.assert_array_equal(getattr(again, name), getattr(cliff, name))
    assert calibration is not None and findings is not None
    assert (calibration.rows, calibration.mean_z) == (
        findings.calibration.rows, pytest.approx(findings.calibration.mean_z)
    )  # fmt: skip
