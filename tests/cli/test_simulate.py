"""`caligo simulate`: what it says of many runs is what they say, with simulators of its own."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from caligo.cli.simulation import seconds_of_a_run, summarise
from caligo.results import ProtocolOutcome, ProtocolResult, Reason
from caligo.spec import CampaignSpec, validate

CALIGO = str(Path(sys.executable).parent / "caligo")
INPUTS = np.array([0.1, -1.0, 9.0, 0.98, -0.5, 0.01, -6.0, 6.0, 0.0], np.float32)


def caligo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CALIGO, *arguments], capture_output=True, text=True, timeout=200, check=False)


def rows(keys: int, runs: int) -> np.ndarray:
    made = []
    for j in range(runs):
        is_key = j < keys
        outcome = ProtocolOutcome.SUCCESS if is_key else ProtocolOutcome.FAILURE_SECURITY
        reason = Reason.NONE if is_key else Reason.DEATH_VALLEY
        bits, margin = (1000 + j, 0.1 + 0.01 * j) if is_key else (0, -0.02)
        made.append(ProtocolResult(outcome, reason, margin=margin, key_length=bits, qber=0.02).to_row(j, INPUTS))
    return np.concatenate(made)


def test_what_runs_say() -> None:
    found = summarise(rows(7, 20), CampaignSpec())
    assert (found.runs, found.keys, found.faults) == (20, 7, 0)
    assert found.ends == {"failure_security, death_valley": 13, "success": 7}
    low, high = stats.binomtest(7, 20).proportion_ci(0.95, method="wilson")
    assert (found.key_low, found.key_high) == pytest.approx((low, high), abs=1e-6)
    bits = np.array([1000 + j for j in range(7)] + [0] * 13, float)
    assert found.key_bits == pytest.approx(bits.mean())
    assert found.key_bits_error == pytest.approx(bits.std(ddof=1) / math.sqrt(20))
    assert math.isnan(found.bits_per_second)


def test_runs_that_say_nothing_do_not_count() -> None:
    fault = ProtocolResult(ProtocolOutcome.FAILURE_ERROR, Reason.SOURCE_FAULT, margin=math.nan).to_row(99, INPUTS)
    found = summarise(np.concatenate([rows(3, 4), fault]), CampaignSpec())
    assert (found.runs, found.keys, found.faults) == (4, 3, 1)
    assert found.ends["failure_error, source_fault"] == 1


def test_a_second_holds_the_wait() -> None:
    """10^6 rounds of 1 us and a wait of 1 s are two seconds."""
    spec = validate(CampaignSpec, {"physics": {"device": {"round_period_ns": 1000, "fibre": {"length_km": 1}}}})
    assert seconds_of_a_run(rows(1, 1)[0], spec) == pytest.approx(2.0, rel=1e-5)
    found = summarise(rows(7, 20), spec)
    assert found.bits_per_second == pytest.approx(found.key_bits / 2.0, rel=1e-5)


def test_the_command_agrees_with_the_closed_form() -> None:
    point = ("F=0.97", "eta=0.5", "N=3e5", "r=0.3", "nu=0.1", "e_det=0.01", "P_dark=1e-6", "dt_ns=1e9")
    done = caligo("simulate", *point, "--runs", "24", "--set", "physics.memory_model=fixed", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["runs"] == 24 and found["claim"] == "individual"
    assert found["point"]["F"] == pytest.approx(0.97)
    error = found["expected_sd"] / math.sqrt(24)
    assert found["margin"] == pytest.approx(found["expected_margin"], abs=4 * error + 0.01)
    again = caligo("simulate", *point, "--runs", "24", "--set", "physics.memory_model=fixed", "--workers", "1")
    assert again.returncode == 0, again.stderr
    assert f"{found['margin']:.5f}" in again.stdout, "runs are those of the seed, however many workers there are"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("FF=0.9",), "caligo: FF: no such parameter (did you mean F?)"),
        (("F=2",), "caligo: F: must lie in [0.5, 1]"),
        (("F=0.9", "--set", "protocol.epr_source=nope"), "caligo: protocol.epr_source: nope is not installed"),
        (("F=0.9", "--spec", "nowhere.yaml"), "caligo: nowhere.yaml: "),
    ],
)
def test_mistakes_get_one_line(arguments: tuple[str, ...], said: str) -> None:
    done = caligo("simulate", *arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(said)
