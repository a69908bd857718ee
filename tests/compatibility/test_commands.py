"""Every command that reads works on campaigns of release 0.1 and says in one line under which rules they were made."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from caligo.cli import main
from caligo.cli.run import _find
from caligo.errors import FailedPrecondition
from caligo.layout import CAMPAIGNS_DIRECTORY, FILE_NAME
from caligo.spec import CampaignSpec, validate

Caligo = Callable[..., tuple[int, str, str]]
RULES = "made under the rules of release 0.1 (bound {}), which prove nothing (docs/physics.md): Bob named the sets"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Caligo:
    """Runs a command on this machine: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["caligo", *map(str, arguments)])
        code = main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def caligo(upgraded, command: Caligo, monkeypatch: pytest.MonkeyPatch) -> Caligo:
    """Runs a command against the upgraded server."""
    monkeypatch.setenv("CALIGO_ADDRESS", upgraded.address)
    return command


def flat(text: str) -> str:
    """A table for people as one line."""
    return " ".join(text.split())


def test_show_and_watch(caligo: Caligo) -> None:
    for arguments in (("show", "kww"), ("watch", "kww")):
        code, out, _ = caligo(*arguments)
        assert code == 0
        assert flat(out).count(RULES.format("kww2012")) == 1
    assert json.loads(caligo("show", "lupo", "--json")[1])["rules"].startswith(RULES.format("lupo2023"))


def test_list(caligo: Caligo) -> None:
    code, out, err = caligo("list")
    assert (code, len(out.splitlines())) == (0, 8)
    lines = err.splitlines()
    assert [line.partition(": ")[0] for line in sorted(lines)] == [
        "erven", "queued, kww", "running, paused-lhs, paused-active, lupo",
    ]  # fmt: skip
    assert all("made under the rules of release 0.1" in line for line in lines)
    assert len(caligo("list", "--json")[1].splitlines()) == 7


def test_results_and_download(caligo: Caligo) -> None:
    code, out, err = caligo("results", "lupo", "--json")
    assert (code, len(out.splitlines())) == (0, 28)
    assert json.loads(out.splitlines()[0])["frames_decoded"] == 0
    assert err.startswith(f"lupo: {RULES.format('lupo2023')}")
    assert err.count("\n") == 1
    code, _, err = caligo("download", "erven", "--output", "erven.h5")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith(f"erven: {RULES.format('erven2014')}")
    code, out, _ = caligo("dataset", "info", "erven.h5")
    assert code == 0
    assert flat(out).count(RULES.format("erven2014")) == 1


def test_export(command: Caligo, data_directory: Path) -> None:
    path = data_directory / CAMPAIGNS_DIRECTORY / "lupo" / FILE_NAME
    code, out, err = command("dataset", "export", path, "--output", "rows.csv")
    assert (code, out) == (0, "rows.csv\n")
    assert err.startswith(f"{path}: {RULES.format('lupo2023')}")
    assert Path("rows.csv").read_text().count("rules: ") == 1


@pytest.mark.parametrize("id", ["lupo", "kww", "erven", "paused-lhs"])
def test_report(command: Caligo, data_directory: Path, id: str) -> None:
    code, out, _ = command("report", data_directory / CAMPAIGNS_DIRECTORY / id / FILE_NAME, "--output", "report")
    assert (code, out) == (0, "report/report.md\n")
    assert "made under the rules of release 0.1" in Path("report/report.md").read_text()


def test_one_that_cannot_go_on_is_one_line_and_exit_code_4(caligo: Caligo) -> None:
    code, out, err = caligo("resume", "paused-lhs")
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert err.startswith("caligo: the campaign was made under the rules of release 0.1")
    assert "cannot go on" in err


def test_a_run_of_then_is_not_resumed(upgraded, data_directory: Path) -> None:
    """`caligo run --resume`, once its services are there."""
    spec = validate(CampaignSpec, {"name": "paused-lhs", "physics": {"bound": "lupo2023"}})
    refused = pytest.raises(FailedPrecondition, match=r"^--resume: .*release 0\.1 .*cannot go on under other rules")
    with upgraded.client() as client, refused:
        _find(client, spec, data_directory)
