"""Services killed at random moments, in any order and number: the campaigns end in the same rows."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def chaos(*flags: object) -> dict:
    """What `python -m benchmarks.chaos` says; whatever it has started ends with it."""
    command = [sys.executable, "-m", "benchmarks.chaos", "--json", *map(str, flags)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1100)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return json.loads(ended.stdout.splitlines()[-1])


def assert_unharmed(found: dict, kills: int) -> None:
    assert found["kills"] >= kills
    assert found["rows_lost"] == found["rows_changed"] == 0
    for point in found["points"]:
        assert point["datasets_changed"] == []
        assert point["files_damaged"] == 0


@pytest.mark.parametrize("simulators", [1, 4])
def test_kills_at_random_moments_change_no_row(simulators: int) -> None:
    found = chaos("--kills", 55, "--simulators", simulators)
    assert_unharmed(found, 55)
    killed = found["points"][0]["kills_by_service"]
    assert {name.partition("-")[0] for name in killed} == {"orchestrator", "sampler", "simulator", "surrogate"}


@pytest.mark.slow
def test_the_real_services_survive_kills_as_well() -> None:
    assert_unharmed(chaos("--real", "--kills", 6, "--simulators", 1), 6)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("simulators", [1, 4])
def test_the_real_services_survive_many_kills(simulators: int) -> None:
    assert_unharmed(chaos("--real", "--kills", 40, "--simulators", simulators), 40)
