"""Campaigns in which something is degenerate come to the right end: `tests/assets/cases`, run by the real services."""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from caligo.cli.embedded import embedded_services
from caligo.cli.interrupts import Interrupts
from caligo.cli.report import write_report
from caligo.cli.specs import load
from caligo.client import Campaign, CampaignClient, CampaignState
from caligo.dataset import open_campaign
from caligo.layout import CAMPAIGNS_DIRECTORY, FILE_NAME
from caligo.phases import Phase
from caligo.physics.claims import CLAIMS
from caligo.results import ProtocolOutcome, Reason, ResultRows
from caligo.secure_share import secure_share
from caligo.v1.campaign_pb2 import Findings

CASES = {path.stem: path for path in sorted((Path(__file__).parents[1] / "assets" / "cases").glob("*.yaml"))}


@dataclasses.dataclass(frozen=True)
class Ended:
    """A case's campaign that has ended, its file, and its rows by phase."""

    campaign: Campaign
    file: Path
    rows: dict[Phase, ResultRows]

    @property
    def simulated(self) -> ResultRows:
        rows = np.concatenate(list(self.rows.values()))
        return rows[rows["outcome"] < ProtocolOutcome.SKIPPED_INFEASIBLE]

    @property
    def findings(self) -> Findings:
        assert self.campaign.state is CampaignState.SUCCEEDED, self.campaign.problem
        assert self.campaign.findings is not None
        return self.campaign.findings


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Ended]]:
    """What became of a case; whichever are asked for are run by the same four services."""
    directory = tmp_path_factory.mktemp("cases")
    with (
        Interrupts() as interrupts,
        embedded_services(directory, interrupts, workers=1) as services,
        CampaignClient(services.address) as client,
    ):

        @functools.cache
        def run(case: str) -> Ended:
            name = client.create(load(CASES[case], [], None)).name
            for _ in client.watch(name):
                services.check()
            campaign = client.get(name)
            file = directory / CAMPAIGNS_DIRECTORY / campaign.id / FILE_NAME
            with open_campaign(file) as dataset:
                return Ended(campaign, file, {phase: dataset.rows(phase) for phase in (Phase.LHS, Phase.ACTIVE)})

        yield run


def test_nothing_can_be_measured(ended: Callable[[str], Ended]) -> None:
    found = ended("all-timeout")
    assert found.campaign.state is CampaignState.FAILED
    assert found.campaign.problem is not None and found.campaign.findings is None
    rows = len(found.rows[Phase.LHS])
    assert f"0 of {rows} rows were simulated to an end" in str(found.campaign.problem)
    assert len(found.simulated) == 16 and (found.simulated["reason"] == Reason.TIME_LIMIT).all()
    assert len(found.rows[Phase.ACTIVE]) == 0


@pytest.mark.parametrize("case", ["few-pairs", pytest.param("all-dead", marks=pytest.mark.slow)])
def test_no_row_has_a_key(ended: Callable[[str], Ended], case: str) -> None:
    found = ended(case)
    assert found.findings.succeeded == 0
    assert len(found.rows[Phase.ACTIVE]) == 4
    assert (found.simulated["reason"] == Reason.INSUFFICIENT_RAW).all()
    assert (found.findings.secure_fraction, found.findings.secure_fraction_error) == pytest.approx((0, 0), abs=1e-3)


@pytest.mark.parametrize("case", ["one-point", pytest.param("all-secure", marks=pytest.mark.slow)])
def test_every_row_has_a_key(ended: Callable[[str], Ended], case: str) -> None:
    found = ended(case)
    assert found.findings.succeeded == found.findings.simulated == found.findings.rows == 20
    assert found.findings.secure_fraction == pytest.approx(1, abs=1e-3)
    assert found.findings.secure_fraction_error < 0.01
    if case == "one-point":
        assert len({row.tobytes() for row in found.simulated["inputs"]}) == 1
        assert len(set(found.findings.length_scales)) == 1  # nothing matters more than anything else


def test_bounds_that_rows_cannot_tell_apart(ended: Callable[[str], Ended]) -> None:
    found = ended("narrow")
    assert len(found.rows[Phase.ACTIVE]) == 4
    assert 0 < found.findings.succeeded < found.findings.simulated
    expected = secure_share(found.campaign.spec, CLAIMS["individual"]).designed[0]
    assert found.findings.secure_fraction == pytest.approx(expected, abs=0.05)
    assert found.findings.secure_fraction_error < 0.1
    assert set(found.findings.relevant_parameters[:5]) == {"r", "nu", "dt_ns", "e_det", "strategy"}


def test_few_rows_of_the_clipped_target_have_a_key(ended: Callable[[str], Ended]) -> None:
    found = ended("efficiency")
    assert 0 < found.findings.succeeded < 0.1 * found.findings.rows
    expected = secure_share(found.campaign.spec, CLAIMS["individual"]).designed[0]
    assert expected < 0.1
    assert found.findings.secure_fraction == pytest.approx(expected, abs=0.15)
    assert (found.rows[Phase.ACTIVE]["outcome"] < ProtocolOutcome.SKIPPED_INFEASIBLE).any()


@pytest.mark.filterwarnings("error")  # a warning would go to a person's terminal
@pytest.mark.parametrize("case", ["few-pairs", "one-point"])
def test_what_is_missing_is_missing_in_the_report(ended: Callable[[str], Ended], case: str, tmp_path: Path) -> None:
    page = write_report(ended(case).file, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "nan" not in text.lower() and "could not be drawn" not in text
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn >= {"outcomes.png", "key_rate.png"}
    assert all((f"({name})" in text) == (name in drawn) for name in ("cliff.png", "learning.png"))
    assert ("learning.png" in drawn) == ("cliff.png" not in drawn) == (case == "one-point")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_command_comes_to_the_same_end(case: str, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("caligo")), "run", str(CASES[case]), "--output", "out", "--json"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert "Traceback" not in ended.stderr and "Warning" not in ended.stderr
    if case == "all-timeout":
        assert ended.returncode == 5
        assert "rows were simulated to an end" in ended.stderr.splitlines()[-1]
    else:
        assert ended.returncode == 0, ended.stderr
        answer = json.loads(ended.stdout.splitlines()[-1])
        assert answer["state"] == "succeeded" and Path(tmp_path, answer["report"]).exists()
