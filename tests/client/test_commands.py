"""The remote commands of `caligo`, against a server that keeps the contract."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from caligo.cli import main
from caligo.client import CampaignClient
from caligo.client.download import Download
from caligo.errors import InvalidArgument
from caligo.physics.claims import CLAIMS
from caligo.results import METRIC, ROW_DTYPE
from caligo.spec import SpaceSpec
from caligo.v1 import campaign_pb2 as pb
from caligo.v1 import surrogate_pb2

Caligo = Callable[..., tuple[int, str, str]]


@pytest.fixture
def caligo(
    client: CampaignClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Caligo:
    """Runs a command against the server: (exit code, stdout, stderr)."""
    monkeypatch.setenv("CALIGO_ADDRESS", client.address)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["caligo", *map(str, arguments)])
        code = main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def ended(orchestrator: Any) -> pb.Campaign:
    """A campaign that has succeeded, with three events and four rows."""
    campaign = orchestrator.add("c")
    campaign.progress.MergeFrom(pb.Progress(phase=3, done=4, total=4, simulated=3, succeeded=2, failed=1, skipped=1))
    campaign.findings.MergeFrom(
        pb.Findings(
            rows=4,
            simulated=3,
            skipped_infeasible=1,
            succeeded=2,
            best_efficiency=0.1,
            median_efficiency=0.05,
            relevant_parameters=["F", "N"],
            length_scales=[0.2, 0.4],
            secure_fraction=0.44,
            secure_fraction_error=0.02,
        )
    )
    orchestrator.emit(note="hello")
    orchestrator.emit(progress=campaign.progress)
    orchestrator.finish(campaign, pb.CAMPAIGN_STATE_SUCCEEDED)
    rows = np.zeros(4, dtype=ROW_DTYPE)
    rows["index"] = np.arange(4)
    rows["inputs"] = [0.75, -1, 9, 0.98, -0.3, 0.01, -6, 6, 1]
    rows["metrics"][:, METRIC["qber"]] = np.nan
    rows["outcome"], rows["counts"][:, 0] = [1, 1, 4, 7], 10**12
    orchestrator.rows = rows
    return campaign


def test_submit_then_list_then_show(caligo: Caligo, orchestrator: Any) -> None:
    Path("spec.yaml").write_text("name: mine")
    assert caligo("submit", "spec.yaml", "--seed", 5, "--request-id", "once") == (0, "campaigns/c0\n", "")
    code, out, _ = caligo("submit", "spec.yaml", "--seed", 5, "--request-id", "once", "--json")
    campaign = json.loads(out)
    assert (code, campaign["name"], campaign["state"], campaign["spec"]["seed"]) == (0, "campaigns/c0", "queued", 5)
    assert caligo("submit", "spec.yaml", "--dry-run", "--json")[0] == 0
    orchestrator.add("c1")
    assert [json.loads(line)["name"] for line in caligo("list", "--json")[1].splitlines()] == [
        "campaigns/c0", "campaigns/c1"
    ]  # fmt: skip
    table = caligo("list", "--state", "running")[1]
    assert "c1" in table and "c0" not in table
    assert "queued" in caligo("show", "c0")[1]


def test_list_shows_where_campaigns_stand_and_whose_they_are(caligo: Caligo, orchestrator: Any) -> None:
    campaign = orchestrator.add("c")
    campaign.owner, campaign.priority = "ada", 250
    campaign.progress.MergeFrom(pb.Progress(phase=3, done=1200, total=4000, simulated=1100, succeeded=300))
    orchestrator.add("waiting", pb.CAMPAIGN_STATE_QUEUED)
    ended = orchestrator.add("ended", pb.CAMPAIGN_STATE_SUCCEEDED)
    ended.progress.MergeFrom(pb.Progress(phase=2, done=163, total=244, simulated=200, succeeded=9))
    heading, running, done, waiting = sorted(line.split() for line in caligo("list")[1].splitlines())
    assert done[:8] == ["ended", "-", "succeeded", "100", "-", "-", "200", "9"]
    assert heading[:5] == ["CAMPAIGN", "OWNER", "STATE", "PRIORITY", "PHASE"]
    assert waiting[:5] == ["waiting", "-", "queued", "100", "waiting"]
    assert running[:9] == ["c", "ada", "running", "250", "active", "learning", "1,200/4,000", "1,100", "300"]
    plain = json.loads(caligo("list", "--state", "running", "--json")[1])
    assert (plain["owner"], plain["priority"], plain["progress"]["done"]) == ("ada", 250, 1200)
    caligo("list", "--state", "queued", "--owner", "ada", "--prefix", "cliff-")
    assert orchestrator.filters[-1] == "state=QUEUED AND owner=ada AND name:cliff-"
    shown = caligo("show", "c")[1]
    assert "ada" in shown and "250" in shown


def test_show_and_dry_runs_say_what_is_claimed(caligo: Caligo, orchestrator: Any) -> None:
    orchestrator.add("c")
    claim = CLAIMS["individual"]
    shown = " ".join(caligo("show", "c")[1].split())
    assert f"individual: {claim.title} ({claim.status}); partition alice" in shown
    assert claim.adversary in shown and "2.0e-10 = eps_s + eps_h of 1e-10 each" in shown
    assert json.loads(caligo("show", "c", "--json")[1])["statement"]["attacks covered"] == claim.adversary
    Path("spec.yaml").write_text("name: mine")
    checked = caligo("submit", "spec.yaml", "--dry-run")[1]
    assert f"# claim: individual: {claim.title}" in checked
    assert yaml.safe_load(checked)["physics"]["claim"] == "individual"


def test_update(caligo: Caligo, orchestrator: Any) -> None:
    orchestrator.add("c").spec.active.samples = 96
    updated = json.loads(caligo("update", "c", "--samples", 400, "--priority", 7, "--json")[1])
    assert (updated["spec"]["active"]["samples"], updated["priority"]) == (400, 7)
    assert "400 rows of active learning" in caligo("update", "c", "--priority", 8)[1]
    assert [list(request.update_mask.paths) for request in orchestrator.updates] == [
        ["spec.active.samples", "priority"],
        ["priority"],
    ]
    assert caligo("update", "c") == (2, "", "caligo: --samples, --priority: at least one of them must be given\n")
    assert caligo("update", "c", "--priority", 1001)[0] == 2
    assert caligo("update", "nothing", "--priority", 5)[0] == 4


def test_pause_resume_cancel_delete(caligo: Caligo, orchestrator: Any) -> None:
    orchestrator.add("c")
    assert caligo("delete", "c") == (4, "", "caligo: campaigns/c: has not ended; cancel it first\n")
    assert caligo("pause", "c")[1] == "campaigns/c: paused\n"
    assert json.loads(caligo("resume", "c", "--json")[1])["state"] == "running"
    assert caligo("cancel", "c")[1] == "campaigns/c: cancelled\n"
    assert caligo("delete", "c", "--json") == (0, '{"deleted": "c"}\n', "")
    assert caligo("show", "c") == (4, "", "caligo: campaigns/c: no such campaign\n")


def test_watch(caligo: Caligo, ended: pb.Campaign, orchestrator: Any) -> None:
    code, out, err = caligo("watch", "c", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [(e["sequence"], e["event"]) for e in events] == [(1, "note"), (2, "progress"), (3, "changed")]
    assert events[1]["progress"]["skipped"] == 1
    assert events[1]["progress"]["phase"] == "active"
    assert events[2]["campaign"]["findings"]["best_efficiency"] == 0.1
    code, out, err = caligo("watch", "c")
    assert (code, err.splitlines()) == (
        0,
        [
            "hello",
            "active learning: 4 of 4; 3 simulated: 2 with a key, 1 without; 1 skipped",
            "campaigns/c: succeeded",
        ],
    )
    assert "44.0% ± 2.0% of the space" in out
    ended.state = pb.CAMPAIGN_STATE_FAILED
    ended.problem.message = "the disk is full"
    assert caligo("watch", "c", "--json")[0::2] == (5, "caligo: campaigns/c: failed: the disk is full\n")


def test_results(caligo: Caligo, ended: pb.Campaign) -> None:
    code, out, _ = caligo("results", "c", "--phase", "active", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["outcome"] for row in rows] == ["success", "success", "failure_security", "skipped_infeasible"]
    first = rows[0]
    assert (first["phase"], first["strategy"], first["pairs"], first["qber"]) == ("active", "blind", 10**12, None)
    assert (first["r"], first["nu"], first["F"], first["N"]) == (0.75, 0.1, 0.98, 1e6)
    table = [line.split("\t") for line in caligo("results", "c", "--start-row", 1)[1].splitlines()]
    assert table[0][:3] == ["phase", "index", "r"]
    assert [row[:2] for row in table[1:]] == [[p, str(i)] for p in ("lhs", "active") for i in (1, 2, 3)]


def test_download(caligo: Caligo, ended: pb.Campaign, orchestrator: Any) -> None:
    orchestrator.file = bytes(range(256)) * 20
    assert caligo("download", "c", "--output", "c.h5") == (0, "c.h5\n", "")
    assert Path("c.h5").read_bytes() == orchestrator.file
    assert caligo("download", "c", "-o", "c.h5")[0] == 4
    assert json.loads(caligo("download", "c", "-o", "c.h5", "--force", "--json")[1]) == {"path": "c.h5", "bytes": 5120}


def test_a_download_goes_on_where_an_earlier_one_was_interrupted(
    caligo: Caligo, ended: pb.Campaign, orchestrator: Any
) -> None:
    orchestrator.file = bytes(range(256)) * 20
    Path("c.h5.part").write_bytes(orchestrator.file[:2000])
    assert caligo("download", "c", "-o", "c.h5") == (0, "c.h5\n", "")
    assert Path("c.h5").read_bytes() == orchestrator.file
    assert orchestrator.opened == [2000]


def test_a_full_disk_keeps_what_has_come(
    caligo: Caligo, ended: pb.Campaign, orchestrator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() >= 4000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    orchestrator.file = bytes(range(256)) * 20
    Path("c.h5.part").write_bytes(orchestrator.file[:2000])
    with monkeypatch.context() as patched:
        patched.setattr("caligo.client.download.Path.open", lambda path, mode: FullDisk(path, mode.replace("b", "")))
        code, out, err = caligo("download", "c", "-o", "c.h5")
    assert (code, out, err) == (2, "", "caligo: c.h5: No space left on device\n")
    assert Path("c.h5.part").read_bytes() == orchestrator.file[:4000]
    assert caligo("download", "c", "-o", "c.h5")[0] == 0
    assert Path("c.h5").read_bytes() == orchestrator.file
    assert orchestrator.opened == [2000, 4000]


def test_an_interrupted_download_says_how_to_go_on(
    caligo: Caligo, ended: pb.Campaign, orchestrator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(stream: Download, message: pb.DownloadDatasetResponse) -> tuple[int, int]:
        if message.offset >= 3000:
            raise KeyboardInterrupt
        return receive(stream, message)

    orchestrator.file = bytes(range(256)) * 20
    receive = Download.receive
    with monkeypatch.context() as patched:
        patched.setattr(Download, "receive", interrupt)
        code, out, err = caligo("download", "c", "-o", "c.h5")
    assert (code, out, err) == (130, "", "caligo: interrupted; the same command goes on from what has come\n")
    assert caligo("download", "c", "-o", "c.h5")[0] == 0
    assert Path("c.h5").read_bytes() == orchestrator.file
    assert orchestrator.opened == [0, 3000]


def test_a_terminal_sees_how_far_a_transfer_is(
    caligo: Caligo, ended: pb.Campaign, orchestrator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    orchestrator.file = bytes(500_000)
    seen = io.StringIO()
    monkeypatch.setattr("caligo.cli.output.notices", Console(file=seen, force_terminal=True, width=100))
    assert caligo("download", "c", "-o", "c.h5")[:2] == (0, "c.h5\n")
    assert "500.0/500.0 kB" in seen.getvalue()
    code, out, _ = caligo("results", "c", "--follow")
    assert (code, len(out.splitlines())) == (0, 9)
    assert "rows of c" in seen.getvalue()


def test_following_the_results_of_a_campaign_that_failed_says_so(
    caligo: Caligo, ended: pb.Campaign, orchestrator: Any
) -> None:
    ended.state = pb.CAMPAIGN_STATE_FAILED
    ended.problem.message = "the disk is full"
    code, out, err = caligo("results", "c", "--phase", "active", "--follow", "--json")
    assert (code, err) == (5, "caligo: campaigns/c: failed: the disk is full\n")
    assert len(out.splitlines()) == 4
    assert caligo("results", "c", "--phase", "active", "--json")[0] == 0


def test_predict(caligo: Caligo, ended: pb.Campaign) -> None:
    code, out, _ = caligo("predict", "c", "F=0.97", "N=1e6", "strategy=blind", "--json")
    answer = json.loads(out)
    assert (code, answer["point"]["F"], answer["point"]["N"], answer["point"]["strategy"]) == (0, 0.97, 1e6, "blind")
    assert answer["point"]["r"] == pytest.approx(0.745)  # the middle of the space
    assert answer["mean"] == pytest.approx(0.97)
    assert caligo("predict", "c", "F=2")[0::2] == (2, "caligo: F: must lie in [0.5, 1]\n")
    assert caligo("predict", "c", "Q=2")[0] == 2
    assert caligo("predict", "c", "F=0.97", "F=0.98")[0::2] == (2, "caligo: F: is there twice\n")
    out = caligo("predict", "c", "F=0.97", "N=1e6", "strategy=blind")[1]
    assert "surrogate: margin 0.97 ± 0.25, key with probability 50.0%" in out
    margin, deviation, key = (answer[f"closed_form_{name}"] for name in THEORY)
    assert f"closed form alone: margin {margin:.4g} ± {deviation:.2g}, key with probability {key:.1%}" in out
    assert "under the claim individual" in out


def test_threshold(caligo: Caligo, ended: pb.Campaign, orchestrator: Any) -> None:
    orchestrator.key = lambda inputs: 1 / (1 + np.exp(50 * (inputs[:, 0] - 0.8)))
    code, out, _ = caligo("threshold", "c", "r", "F=0.97", "--level", "0.5")
    assert code == 0
    heading, baseline, blind = out.splitlines()
    assert heading == "F=0.97, under the claim individual"
    assert baseline.startswith("baseline: P(key) 50% at r = 0.8 (") and "key below" in baseline
    assert "closed form" in baseline and blind.startswith("blind: ")
    answer = json.loads(caligo("threshold", "c", "r", "F=0.97", "--json")[1])
    assert (answer["at"], answer["claim"]) == ({"F": "0.97"}, "individual")
    assert [t["level"] for t in answer["thresholds"]] == [0.5, 0.95] * 2
    assert answer["thresholds"][0]["crossings"][0]["value"] == pytest.approx(0.8, abs=1e-4)
    assert "is not crossed: below the whole" not in out
    assert "50% is not crossed: above over the whole range of eta" in caligo("threshold", "c", "eta", "r=0.6")[1]
    Path("links.csv").write_text("F,eta\n0.97,0.1\n0.98,0.2\n")
    assert len(caligo("threshold", "c", "r", "--table", "links.csv", "--json")[1].splitlines()) == 2
    Path("links.csv").write_text("F,eta\n0.97,0.1\n0.98,7\n")
    code, _, err = caligo("threshold", "c", "r", "--table", "links.csv", "--json")
    assert (code, err) == (2, "caligo: links.csv: line 3: eta: must lie in [0.0001, 1]\n")
    code, _, err = caligo("threshold", "c", "rr")
    assert code == 2 and "did you mean r?" in err


def test_require(caligo: Caligo, ended: pb.Campaign, orchestrator: Any) -> None:
    orchestrator.key = lambda inputs: 1 / (1 + np.exp(-5000 * (inputs[:, 3] - 0.98)))
    code, out, _ = caligo("require", "c", "F=0.95", "eta=0.1", "--free", "F,eta")
    assert code == 0
    heading, baseline, fidelity, efficiency, *_ = out.splitlines()
    assert heading == "F=0.95 eta=0.1, under the claim individual"
    assert baseline.startswith("baseline: P(key) 95% at cost 3.6") and "closed form" in baseline
    assert fidelity.split() == ["F", "k", "=", "2.631,", "to", "0.9806"]
    assert efficiency.split() == ["eta", "k", "=", "1,", "as", "it", "is"]
    answer = json.loads(caligo("require", "c", "F=0.95", "--weight", "F=3", "--json")[1])
    assert (answer["baseline"], answer["confidence"]) == ({"F": "0.95"}, 0.95)
    assert answer["requirements"][0]["strategy"] == "baseline"
    assert len(caligo("require", "c", "F=0.95", "--over", "r=0.5,0.6", "--json")[1].splitlines()) == 2
    orchestrator.key = lambda inputs: np.zeros(len(inputs))
    assert "no improvement inside the campaign's space is enough" in caligo("require", "c", "F=0.95")[1]
    for wrong, said in (
        (("--free", "r"), "free: must be among F, eta, e_det, P_dark: r is no hardware's to improve"),
        (("--weight", "F=much"), "--weight: F: must be a number, not 'much'"),
        (("--over", "r"), "--over: must be SYMBOL=VALUE,VALUE,..., not 'r'"),
        (("--over", "F=0.9"), "--over: F is given in the baseline; leave it out there"),
    ):
        assert caligo("require", "c", "F=0.95", *wrong)[0::2] == (2, f"caligo: {said}\n")


def test_contour(caligo: Caligo, ended: pb.Campaign, orchestrator: Any) -> None:
    orchestrator.key = lambda inputs: 1 / (1 + np.exp(50 * (inputs[:, 0] - 0.8)))
    code, out, _ = caligo("contour", "c", "r", "F", "eta=0.1", "--points", "21")
    assert code == 0
    heading, *lines = [line.split(",") for line in out.splitlines()]
    assert heading == ["strategy", "kind", "line", "r", "F"]
    ours = [line for line in lines if line[:2] == ["blind", "surrogate"]]
    assert len(ours) == 21 and all(float(line[3]) == pytest.approx(0.8, abs=1e-3) for line in ours)
    plain = json.loads(caligo("contour", "c", "r", "F", "--json")[1])
    assert plain["features"][0]["properties"]["claim"] == "individual"
    code, out, _ = caligo("contour", "c", "r", "F", "--output", "cliff.geojson")
    assert code == 0 and json.loads(Path("cliff.geojson").read_text())["type"] == "FeatureCollection"
    caligo("contour", "c", "r", "F", "--output", "cliff.csv")
    assert Path("cliff.csv").read_text().startswith("strategy,kind,line,r,F\n")
    for wrong, said in (
        (("r", "r"), "y: must be another parameter than x"),
        (("r", "F", "F=0.9"), "F: varies: leave it out of the point"),
        (("r", "FF"), "y: must be one of "),
        (("r", "F", "--output", "cliff.png"), "--output: must end in .csv, .geojson or .json"),
        (("r", "F", "--level", "1"), "level: must lie between 0 and 1, not 1"),
    ):
        code, _, err = caligo("contour", "c", *wrong)
        assert code == 2 and err.startswith(f"caligo: {said}")
    assert not Path("cliff.png").exists()


THEORY = ("margin", "standard_deviation", "probability_of_key")


def test_where_there_is_no_closed_form_it_is_not_said(caligo: Caligo, ended: pb.Campaign) -> None:
    ended.spec.physics.claim = "release-0.1/lupo2023"
    assert "closed form alone: n/a" in caligo("predict", "c")[1]
    answer = json.loads(caligo("predict", "c", "--json")[1])
    assert [answer[f"closed_form_{name}"] for name in THEORY] == [None] * 3
    Path("points.csv").write_text("F\n0.97\n")
    heading, line = (row.split("\t") for row in caligo("predict", "c", "--table", "points.csv")[1].splitlines())
    assert heading[-4:] == [*(f"closed_form_{name}" for name in THEORY), "outside"]
    assert line[-4:] == ["n/a", "n/a", "n/a", "-"]


def test_predict_a_table(caligo: Caligo, ended: pb.Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("points.csv").write_text("F,outcome,strategy\n0.97,success,blind\n0.9,success,baseline\n")
    code, out, _ = caligo("predict", "c", "--table", "points.csv", "--json")
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [(a["F"], a["strategy"], a["mean"], a["standard_deviation"]) for a in answers] == [
        (0.97, "blind", 0.97, 0.25),
        (0.9, "baseline", 0.9, 0.25),
    ]
    table = [line.split("\t") for line in caligo("predict", "c", "--table", "points.csv")[1].splitlines()]
    assert table[0] == [*answers[0]]
    assert [float(row[table[0].index("mean")]) for row in table[1:]] == [0.97, 0.9]
    # What `results` prints goes in as it is.
    monkeypatch.setattr("sys.stdin", io.StringIO(caligo("results", "c", "--phase", "active")[1]))
    answers = [json.loads(line) for line in caligo("predict", "c", "--table", "-", "--json")[1].splitlines()]
    assert [(a["r"], a["nu"], a["F"], a["N"], a["strategy"]) for a in answers] == [(0.75, 0.1, 0.98, 1e6, "blind")] * 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("outcome\nsuccess\n", "points.csv: must have a heading with some of r, nu"),
        ("", "points.csv: must have a heading"),
        ("F,Eta\n0.9,0.5\n", "points.csv: Eta: no such column; there are r, nu"),
        ("F,eta,F\n0.9,0.5,0.8\n", "points.csv: F: is there twice"),
        ("F,eta\n0.9,0.5,0.8\n", "points.csv: line 2: the line: has more values than the heading"),
        ("F\n0.9\n2\n", "points.csv: line 3: F: must lie in [0.5, 1]"),
        ("F,N\n0.9\n", "points.csv: line 2: N: must be a number, not ''"),
        ("F,eta\n0.9,0.5\n0.9,0.001\n", "points.csv: line 3: eta: 0.001 is outside the campaign's space, [0.01, 1]"),
        ("F\n\x00\n", "points.csv"),
    ],
)
def test_a_bad_table_is_one_line(caligo: Caligo, ended: pb.Campaign, text: str, words: str) -> None:
    Path("points.csv").write_text(text)
    code, out, err = caligo("predict", "c", "--table", "points.csv")
    assert (code, out) == (2, "")
    assert words in err
    assert caligo("predict", "c", "F=0.9", "--table", "points.csv")[0] == 2
    assert caligo("predict", "c", "--table", "nowhere.csv")[0] == 2


def test_a_point_outside_the_space_is_a_guess_that_one_asks_for(caligo: Caligo, ended: pb.Campaign) -> None:
    code, out, err = caligo("predict", "c", "eta=0.001", "r=0.3", "--json")
    assert (code, out) == (2, "")
    assert err == "caligo: r: 0.3 is outside the campaign's space, [0.5, 0.99]; `extrapolate` has it guessed\n"
    code, out, _ = caligo("predict", "c", "eta=0.001", "r=0.3", "--json", "--extrapolate")
    assert (code, json.loads(out)["outside"]) == (0, ["r", "eta"])
    assert "outside the campaign's space in r, eta" in caligo("predict", "c", "eta=0.001", "r=0.3", "--extrapolate")[1]
    assert json.loads(caligo("predict", "c", "--json")[1])["outside"] == []
    Path("points.csv").write_text("eta\n0.5\n0.001\n")
    table = [
        line.split("\t") for line in caligo("predict", "c", "--table", "points.csv", "--extrapolate")[1].splitlines()
    ]
    assert [row[-1] for row in table] == ["outside", "-", "eta"]


def test_a_strategy_that_the_campaign_does_not_have_is_not_predicted(caligo: Caligo, ended: pb.Campaign) -> None:
    ended.spec.space.blind_fraction = 1.0
    assert json.loads(caligo("predict", "c", "--json")[1])["point"]["strategy"] == "blind"
    refused = (2, "caligo: strategy: must be blind: the campaign has no others\n")
    assert caligo("predict", "c", "strategy=baseline")[0::2] == refused
    assert caligo("predict", "c", "strategy=baseline", "--extrapolate")[0::2] == refused


def test_slice(caligo: Caligo, client: CampaignClient, ended: pb.Campaign) -> None:
    ended.spec.space.blind_fraction = 1.0
    code, out, _ = caligo("slice", "c", "N", "F", "r=0.8", "--points", 3, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert {(line["r"], line["strategy"], line["eta"]) for line in lines} == {(0.8, "blind", lines[0]["eta"])}
    assert len({(line["N"], line["F"]) for line in lines}) == 9
    assert all(line["mean"] == pytest.approx(line["F"], abs=1e-6) for line in lines)
    assert caligo("slice", "c", "N", "F", "--output", "slice.png") == (0, "slice.png\n", "")
    with Image.open("slice.png") as image:
        assert min(image.size) > 500
    assert caligo("slice", "c", "N", "N")[0] == 2
    assert caligo("slice", "c", "N", "Q")[0::2] == (
        2, "caligo: y: must be one of r, nu, dt_ns, F, eta, e_det, P_dark, N, not 'Q'\n"
    )  # fmt: skip
    assert caligo("slice", "c", "N", "F", "--output", "slice.nothing")[0] == 2

    piece = client.slice("c", "F", "N", points=5)
    assert piece.axes == (3, 7)
    assert np.isnan(piece.mean[0]).all()
    np.testing.assert_array_equal(piece.mean[1], np.tile(piece.x, (5, 1)))
    with pytest.raises(InvalidArgument, match="points"):
        client.slice("c", "F", "N", points=1)


def test_many_rows_are_predicted_in_several_calls(
    client: CampaignClient, ended: pb.Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caligo.client.calls._PREDICT_ROWS", 4)
    rows = SpaceSpec().resolve().from_unit(np.zeros((10, 9)))
    rows[:, 3] = np.linspace(0.9, 1, 10)
    np.testing.assert_array_equal(client.predict("c", rows)[:, 0], rows[:, 3])
    assert client.predict("c", rows[:0]).shape == (0, 6)


def test_what_matters_and_what_differs_is_shown(caligo: Caligo, ended: pb.Campaign) -> None:
    out = caligo("show", "c")[1]
    assert "F (0.2), N (0.4)" in out, "a campaign of an earlier release"
    for symbol, total in (("F", 0.31), ("r", 0.02), ("N", 0.2), ("nu", 0.4), ("eta", 0.1)):
        ended.findings.relevance.add(parameter=symbol, total=total, total_error=0.005)
    ended.findings.discrepancy.MergeFrom(
        surrogate_pb2.Discrepancy(verdict="agrees", rows=81, p_value=0.4, bound=0.003, point=[0.0] * 9)
    )
    out = " ".join(caligo("show", "c")[1].split())
    assert "matter most nu 40.0% ± 1.0%, F 31.0% ± 1.0%, N 20.0% ± 1.0%, eta 10.0% ± 1.0% of the target's" in out
    assert "against theory no deviation found (p = 0.4, 81 rows); |difference| below 0.003 everywhere at 95 %" in out
    shown = json.loads(caligo("show", "c", "--json")[1])["findings"]
    assert (shown["discrepancy"]["verdict"], shown["relevance"][0]["total"]) == ("agrees", 0.31)


def test_what_is_known_of_the_surrogate_is_shown(caligo: Caligo, ended: pb.Campaign) -> None:
    ended.findings.calibration.MergeFrom(
        pb.Calibration(rows=1234, coverage50=0.48, coverage90=0.91, coverage95=0.962, mean_z=-0.034)
    )
    guardrail = ended.findings.guardrail
    guardrail.MergeFrom(surrogate_pb2.GuardrailState(mode="too_few_rows", threshold=0.99, false_skip_bound=1))
    out = caligo("show", "c")[1]
    assert "48.0% inside the 50% interval, 91.0% inside 90%, 96.2% inside 95%, mean z -0.03, on 1,234 rows" in out
    assert "skips nothing (too few rows)" in out
    guardrail.MergeFrom(
        surrogate_pb2.GuardrailState(
            active=True, mode="raised", threshold=0.995, evidence=400, false_skips=1, audits=20, false_skip_bound=0.0118
        )
    )
    out = caligo("show", "c")[1]
    assert (
        "skips above 0.995 (raised); 1 of 400 unseen rows above 0.995 had a key (0 of 20 audits): at most 1.18%" in out
    )
    shown = json.loads(caligo("show", "c", "--json")[1])["findings"]
    assert shown["calibration"]["coverage90"] == 0.91
    assert shown["guardrail"]["mode"] == "raised"


def test_a_report_by_name_works_again_and_again(
    caligo: Caligo, ended: pb.Campaign, orchestrator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caligo.cli.report.write_report", lambda path, directory: directory / path.name)
    orchestrator.file = b"first"
    assert caligo("report", "c") == (0, "c/exploration_data.h5\n", "")
    orchestrator.file = b"second"
    for name in ("c", "campaigns/c"):
        assert caligo("report", name) == (0, "c/exploration_data.h5\n", "")
    assert Path("c/exploration_data.h5").read_bytes() == b"second"


def test_report_of_what_is_no_campaign_file(caligo: Caligo, ended: pb.Campaign, orchestrator: Any) -> None:
    orchestrator.file = b"not HDF5"
    code, _, err = caligo("report", "c", "--output", "page")
    assert code == 2
    assert err == "caligo: page/exploration_data.h5: is not an HDF5 file\n"
