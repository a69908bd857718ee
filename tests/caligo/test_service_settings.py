"""Settings of a service: flag over environment over file over default."""

from __future__ import annotations

from pathlib import Path

import pytest

from caligo.errors import InvalidArgument
from caligo.settings import ServiceSettings


class KettleSettings(ServiceSettings, section="kettle"):
    """A service that is not there."""

    litres: int = 1
    """How much."""


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "caligo.yaml"
    path.write_text("kettle: {litres: 2, log_level: debug}\nsampler: {anything: 1}\n")
    return path


def test_each_source_goes_before_the_next(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KettleSettings.from_command_line([]).litres == 1
    monkeypatch.setenv("CALIGO_CONFIG", str(file))
    assert KettleSettings.from_command_line([]).litres == 2
    monkeypatch.setenv("CALIGO_KETTLE_LITRES", "3")
    assert KettleSettings.from_command_line([]).litres == 3
    settings = KettleSettings.from_command_line(["--litres", "4", "--lifeline"])
    assert (settings.litres, settings.lifeline, settings.log_level) == (4, True, "debug")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("CALIGO_KETTLE_LITRES", "lots", "litres: must be a whole number"),
        ("CALIGO_KETTLE_COLOUR", "red", "CALIGO_KETTLE_COLOUR: no such setting"),
        ("CALIGO_KETTLE_GRACE_SECONDS", "-1", "grace_seconds: must be at least 0"),
        ("CALIGO_CONFIG", "/does/not/exist.yaml", "/does/not/exist.yaml: No such file"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidArgument) as caught:
        KettleSettings.from_command_line([])
    assert words in str(caught.value)


def test_an_unknown_key_in_the_file_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("kettle: {colour: red}")
    monkeypatch.setenv("CALIGO_CONFIG", str(file))
    with pytest.raises(InvalidArgument, match="colour: unknown key"):
        KettleSettings.from_command_line([])


@pytest.mark.parametrize(
    ("text", "said"),
    [("orchestrater: {}", "orchestrater: no such section"), ("sampler: 5", "sampler: must hold a mapping")],
)
def test_a_settings_file_with_a_wrong_section_is_refused(tmp_path, monkeypatch, text, said) -> None:
    (tmp_path / "caligo.yaml").write_text(text)
    monkeypatch.setenv("CALIGO_CONFIG", str(tmp_path / "caligo.yaml"))
    with pytest.raises(InvalidArgument, match=said):
        KettleSettings.from_command_line([])
