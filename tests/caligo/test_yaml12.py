"""YAML by the rules of version 1.2; every fault is one line with its source, wherever the text comes from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from caligo import yaml12
from caligo.cli import main
from caligo.errors import InvalidArgument
from caligo.settings import ServiceSettings


class PotSettings(ServiceSettings, section="pot"):
    """A service that is not there."""


FAULTS = {
    "a: !!binary aGk=": "line 1, column 4: the tag tag:yaml.org,2002:binary means nothing here",
    "a: !!python/object/apply:os.system ['true']": "means nothing here",
    "a: !fancy 1": "the tag !fancy means nothing here",
    "a: !!int x": "'x' is no number",
    "a: !!float x": "'x' is no number",
    "a: !!bool maybe": "'maybe' is neither true nor false",
    "a: " + "9" * 5000: "a number has too many digits",
    "a: 0x" + "f" * 5000: "a number has too many digits",
    "a: " + "[" * 3000: "nested too deep",
    "a: " + "{b: " * 3000: "nested too deep",
    "a: 1\nb: {c: 2, c: 3}": "line 2, column 11: the key 'c' is there twice",
    "a: 1\na: 1": "the key 'a' is there twice",
    "1: 2": "a key must be a text",
    "? [1]\n: 2": "a key must be a text",
    "a: [": "line 1, column 5",
    "a: b: c": "not allowed here",
    "a: *b": "undefined alias",
    "a: \x07": "unacceptable character",
    "a: 1\n---\nb: 1": "another document",
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e2", 100.0),
        ("1e-9", 1e-9),
        ("0123", 123),
        ("0o17", 15),
        ("1:30", "1:30"),
        ("yes", "yes"),
        ("off", "off"),
        ("2026-01-02", "2026-01-02"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        ("true", True),
        ("~", None),
        ("", None),
        (".inf", float("inf")),
        ("!!str 5", "5"),
        ("[1, {a: b}]", [1, {"a": "b"}]),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
    ],
)
def test_version_1_2(text: str, value: Any) -> None:
    assert yaml12.parse(text, "here") == value


@pytest.mark.parametrize("text", FAULTS, ids=lambda text: text[:20])
def test_a_fault_is_one_line_that_names_where(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "given.yaml"
    path.write_text(text)
    monkeypatch.setenv("CALIGO_CONFIG", str(path))
    for read in (lambda: yaml12.read(path), lambda: PotSettings.from_command_line([])):
        with pytest.raises(InvalidArgument) as caught:
            read()
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
        assert FAULTS[text] in str(caught.value)


@pytest.mark.parametrize("text", [text for text in FAULTS if "\x07" not in text], ids=lambda text: text[:20])
def test_so_it_is_in_the_commands(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    (tmp_path / "ok.yaml").write_text("name: ok")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["caligo", "run", *arguments, "--dry-run"])
        assert main() == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and FAULTS[text].partition(": ")[2] in err
        return err

    assert run("bad.yaml").startswith("caligo: bad.yaml: ")
    assert run("ok.yaml", "--set", f"space={text}").startswith("caligo: --set space: ")
    monkeypatch.setenv("CALIGO_SPEC__SPACE", text)
    assert run("ok.yaml").startswith("caligo: CALIGO_SPEC__SPACE: ")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "given.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidArgument, match="is not YAML: not a text in UTF-8"):
        yaml12.read(path)
    path.write_text("")
    assert yaml12.read(path) == {}


def test_what_is_written_reads_as_the_same() -> None:
    values = {
        "z": "1e5", "date": "2026-01-02", "small": 1e-10, "yes": "yes", "none": None, "tilde": "~", "old": "0123",
        "empty": {}, "list": [], "true": True, "deep": {"N": {"low": 1e3, "high": 1e8}}, "text": "",
    }  # fmt: skip
    text = yaml12.dump(values)
    assert yaml12.parse(text, "here") == values
    assert [line.partition(":")[0] for line in text.splitlines()][:2] == ["z", "date"]
