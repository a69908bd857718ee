"""What a run has found is said and kept, whatever is in the way of its report, its output or a command's end."""

from __future__ import annotations

import datetime
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caligo.cli import main
from caligo.cli.embedded import environment
from caligo.client import Campaign, CampaignState
from caligo.layout import RUN_LOCK, hold
from caligo.spec import CampaignSpec
from caligo.v1 import campaign_pb2

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`caligo run` of a campaign that has ended well: the command from there on. Returns the exit code."""
    (tmp_path / "spec.yaml").write_text("name: synthetic")
    found = campaign_pb2.Findings(simulated=120, secure_fraction=0.44, secure_fraction_error=0.02)
    spec, now = CampaignSpec(name="synthetic"), datetime.datetime.now(datetime.UTC)
    campaign = Campaign(
        "campaigns/synthetic", spec, CampaignState.SUCCEEDED, campaign_pb2.Progress(), 100, "", now, now, None, found
    )

    def write_report(path: Path, directory: Path) -> Path:
        directory.mkdir(exist_ok=True)
        (directory / "report.md").write_text(f"about {path}")
        return directory / "report.md"

    monkeypatch.setattr("caligo.cli.run.run", lambda *_, **__: (campaign, tmp_path / "exploration_data.h5"))
    monkeypatch.setattr("caligo.cli.report.write_report", write_report)
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["caligo", "run", "spec.yaml", "--output", "out", *arguments])
        return main()

    return command


def test_the_summary_comes_first_and_then_the_report(run: Run, tmp_path: Path, capsys: Any) -> None:
    assert run() == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.index("44.0% ± 2.0% of the space") < out.index("dataset") < out.index("report: ")
    assert (tmp_path / "report" / "report.md").exists()
    assert run("--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["state"], answer["report"]) == ("succeeded", str(tmp_path / "report" / "report.md"))


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyError("x"), OSError(28, "No space"), KeyboardInterrupt()])
def test_a_report_that_fails_costs_the_report(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Any, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("caligo.cli.report.write_report", fail)
    for arguments in ([], ["--json"]):
        assert run(*arguments) == 0
        out, err = capsys.readouterr()
        assert err.startswith("caligo: ") and err.count("\n") == 1
        assert "caligo report" in err and "exploration_data.h5" in err
        if arguments:
            assert json.loads(out)["report"] is None and json.loads(out)["findings"]["simulated"] == 120
        else:
            assert "44.0% ± 2.0%" in out and "report: " not in out


def test_an_output_without_the_characters_gets_others(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert run() == 0
    assert b"44.0% +- 2.0% of the space" in written.getvalue()
    assert (tmp_path / "report" / "report.md").exists()


def test_a_full_output_costs_the_summary_alone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", full)
        assert run() == 2
    assert capsys.readouterr().err == "caligo: No space left on device\n"
    assert (tmp_path / "report" / "report.md").exists()


def test_closed_streams_take_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert run() == 0
    assert (tmp_path / "report" / "report.md").exists()


@pytest.mark.parametrize(
    ("command", "redirect", "code"),
    [
        ("schema", ">/dev/full 2>&1", 2),  # and none of the interpreter's own at its end
        ("schema", ">&- 2>&-", 0),
        ("--help", "<&- >&-", 0),
        ("frobnicate", ">/dev/full 2>/dev/full", 2),
        ("schema", "| true; exit ${PIPESTATUS[0]}", None),
    ],
)
def test_the_process_ends_as_it_should(command: str, redirect: str, code: int | None) -> None:
    program = f"'{sys.executable}' -c 'import sys; from caligo.cli import main; sys.exit(main())' {command} {redirect}"
    ended = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == code if code is not None else ended.returncode in (0, 1)
    assert ended.stderr == ""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("two\nlines"), 5, "ValueError: two lines (at "),
        (KeyError("x"), 5, "KeyError: 'x'"),
        (RecursionError("deep"), 5, "RecursionError"),
        (MemoryError(), 5, "MemoryError"),
        (AssertionError(), 5, "AssertionError"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), 5, "UnicodeDecodeError"),
        (PermissionError(13, "Permission denied", "locked/out"), 2, "locked/out: Permission denied"),
        (OSError("something"), 2, "OSError: something"),
    ],
)
def test_no_exception_reaches_a_person_as_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, error: Exception, code: int, said: str
) -> None:
    def fail(**_: object) -> int:
        raise error

    monkeypatch.setattr("caligo.cli.app.app", fail)
    assert main() == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"caligo: {said}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "ok.yaml", "--output", "x" * 300],
        ["report", f"{'x' * 300}.h5"],
        ["dataset", "info", "x" * 300],
        ["recompute", "."],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_path_that_cannot_be_looked_at_is_named(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "ok.yaml").write_text("name: ok")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["caligo", *arguments])
    assert main() == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert any(reason in err for reason in ("File name too long", "Is a directory", "Not a directory"))


def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "ok.yaml").write_text("name: ok")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    monkeypatch.setattr(sys, "argv", ["caligo", "run", str(tmp_path / "ok.yaml"), "--dry-run"])
    assert main() == 0
    assert "name: ok" in capsys.readouterr().out


def test_one_run_at_a_time_works_in_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "ok.yaml").write_text("name: ok")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["caligo", "run", "ok.yaml", "--output", "out"])
    with hold(tmp_path / "out" / RUN_LOCK):
        assert main() == 4
    assert capsys.readouterr().err == "caligo: out: another `caligo run` works there\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [RUN_LOCK]


def test_services_have_a_home_to_keep_what_they_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert environment(lambda: "other")["HOME"] == str(tmp_path)
    monkeypatch.setenv("HOME", "/dev/null/nobody")
    assert environment(lambda: "other")["HOME"] == "other"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", dict[int, Any]().__getitem__)
    assert environment(lambda: "other")["HOME"] == "other"


def test_without_a_home_an_installation_that_cannot_be_written_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "cwd").mkdir()
    (tmp_path / "kernel.py").write_text(
        "from numba import njit\n@njit(cache=True)\ndef one():\n    return 1\nprint(one())\n"
    )
    (tmp_path / "__pycache__").write_text("no directory can be made here")
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/dev/null/nobody")

    def compile_in(surroundings: dict[str, str]) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-c", "import sys; sys.path.insert(0, '..'); import kernel"]
        return subprocess.run(
            program, cwd=tmp_path / "cwd", env=surroundings, capture_output=True, text=True, check=False
        )

    assert "no locator available" in compile_in({**os.environ}).stderr  # so it was
    assert compile_in(environment(lambda: str(tmp_path / "home"))).stdout == "1\n"
    assert list((tmp_path / "home").iterdir()) and not list((tmp_path / "cwd").iterdir())
