"""Each item of bad input gives one line that names the field or the address, the right exit code, and no change."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from caligo.cli import main

Caligo = Callable[..., tuple[int, str, str]]
COMMAND = Path(sys.executable).with_name("caligo")


@pytest.fixture
def caligo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Caligo:
    """Runs the command in this process, in an empty directory: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["caligo", *map(str, arguments)])
        code = main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def assert_one_line(err: str, *words: str) -> None:
    assert err.startswith("caligo: ") and err.count("\n") == 1, err
    for word in words:
        assert word in err, err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("smaples: 5", ["smaples", "unknown key"]),
        ("active: {smaples: 5}", ["active.smaples", "unknown key"]),
        ("space: {bounds: {F: [0.9, 1.5]}}", ["bounds.F", "[0.5, 1]"]),
        ("space: {bounds: {F: [0.99, 0.9]}}", ["space.bounds.F", "low 0.99", "high 0.9"]),
        ("space: {bounds: {Q: [0, 1]}}", ["bounds.Q", "no such parameter", "e_det"]),
        ("space: {bounds: {F: [0.9, .nan]}}", ["space.bounds.F.high", "finite"]),
        ("space: {blind_fraction: .nan}", ["space.blind_fraction", "finite"]),
        ("space: {preset: moon}", ["space.preset", "'cliff'"]),
        ("active: {samples: many}", ["active.samples", "must be a whole number"]),
        ("active: {samples: 0}", ["active.samples", "must be at least 1"]),
        ("active: 5", ["active", "must hold a mapping"]),
        ("seed: -1", ["seed", "must be at least 0"]),
        ("name: Two Words", ["name", "must match"]),
        ("lhs: {skip: true}", ["lhs.skip", "base"]),
        ("physics: {epsilon: 1}", ["physics.epsilon", "must be less than 0.1"]),
        ("[1, 2]", ["spec.yaml", "mapping"]),
        ("a: [", ["spec.yaml", "not YAML"]),
    ],
)
def test_spec(caligo: Caligo, tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "spec.yaml").write_text(text)
    for arguments in (["run", "spec.yaml", "--output", "out"], ["submit", "spec.yaml", "--address", "unix:none"]):
        code, out, err = caligo(*arguments)
        assert (code, out) == (2, "")
        assert_one_line(err, *words)
    assert [p.name for p in tmp_path.iterdir()] == ["spec.yaml"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "absent.yaml"], 2, ["absent.yaml", "No such file"]),
        (["run", "."], 2, ["Is a directory"]),
        (["run"], 2, ["Missing argument", "SPEC.yaml"]),
        (["run", "ok.yaml", "--frobnicate"], 2, ["--frobnicate"]),
        (["run", "ok.yaml", "--seed", "x"], 2, ["--seed", "valid integer"]),
        (["run", "ok.yaml", "--workers", "0"], 2, ["--workers"]),
        (["run", "ok.yaml", "--set", "active.samples"], 2, ["--set active.samples", "KEY=VALUE"]),
        (["run", "ok.yaml", "--set", "active.smaples=5"], 2, ["active.smaples", "unknown key"]),
        (["run", "ok.yaml", "--set", "active.samples=["], 2, ["--set active.samples", "YAML"]),
        (["run", "ok.yaml", "--set", "name.first=x"], 2, ["name", "mapping"]),
        (["run", "ok.yaml", "--output", "ok.yaml"], 2, ["--output", "ok.yaml is not a directory"]),
        (["run", "ok.yaml", "--output", "empty", "--resume"], 4, ["--resume", "empty holds no campaign"]),
        (["run", "ok.yaml", "--output", "out", "--set", "base=x"], 4, ["base", "out holds no campaign 'x'"]),
        (["list", "--state", "tired"], 2, ["--state", "running"]),
        (["list", "--address", "unix:nobody"], 3, ["unix:nobody", "nobody answers"]),
        (["list", "--address", "127.0.0.1:1"], 3, ["127.0.0.1:1", "nobody answers"]),
        (["submit", "ok.yaml", "--address", "unix:nobody"], 3, ["unix:nobody", "nobody answers"]),
        (["watch", "x", "--address", "unix:nobody"], 3, ["unix:nobody", "nobody answers"]),
        (["results", "x", "--phase", "moon"], 2, ["--phase", "lhs or active"]),
        (["download", "x", "--address", "unix:nobody"], 3, ["unix:nobody", "nobody answers"]),
        (["report", "absent.h5"], 2, ["absent.h5", "No such file"]),
        (["report", "ok.yaml"], 2, ["ok.yaml", "not an HDF5 file"]),
        (["serve", "kettle"], 2, ["SERVICE", "sampler", "'kettle'"]),
        (["frobnicate"], 2, ["frobnicate"]),
    ],
)
def test_commands(caligo: Caligo, tmp_path: Path, arguments: list[str], code: int, words: list[str]) -> None:
    (tmp_path / "ok.yaml").write_text("name: ok")
    (tmp_path / "empty").mkdir()
    actual, out, err = caligo(*arguments)
    assert (actual, out) == (code, "")
    assert_one_line(err, *words)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "ok.yaml"]


def test_a_directory_with_a_campaign_is_not_touched(caligo: Caligo, tmp_path: Path) -> None:
    (tmp_path / "ok.yaml").write_text("name: ok")
    journal = tmp_path / "out" / "journal.sqlite3"
    journal.parent.mkdir()
    journal.write_bytes(b"kept")
    code, out, err = caligo("run", "ok.yaml", "--output", "out")
    assert (code, out) == (4, "")
    assert_one_line(err, "out: holds a campaign already", "--resume", "--output")
    assert [p.name for p in journal.parent.iterdir()] == ["journal.sqlite3"]
    assert journal.read_bytes() == b"kept"


def test_an_unknown_variable_is_named(caligo: Caligo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ok.yaml").write_text("name: ok")
    monkeypatch.setenv("CALIGO_SPEC__ACTIVE__SMAPLES", "5")
    code, _, err = caligo("run", "ok.yaml", "--dry-run")
    assert code == 2
    assert_one_line(err, "CALIGO_SPEC__ACTIVE__SMAPLES", "no such setting", "batch_size")


def test_the_console_script_ends_in_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("active: {samples: -3}")
    ended = subprocess.run([COMMAND, "run", "bad.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert_one_line(ended.stderr, "active.samples")
    assert "Traceback" not in ended.stderr
