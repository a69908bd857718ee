"""Help that is worth reading: every command says what it does, with an example, and speaks JSON."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator

import pytest
import typer

from caligo.cli import main
from caligo.cli.app import app

WITHOUT_JSON = {"serve", "schema"}
"""What runs until it is stopped, and what prints nothing else."""


def commands(group: typer.Typer, *path: str) -> Iterator[tuple[tuple[str, ...], typer.models.CommandInfo]]:
    for command in group.registered_commands:
        assert command.callback is not None
        yield (*path, command.name or command.callback.__name__.replace("_", "-")), command
    for below in group.registered_groups:
        assert below.typer_instance is not None and below.name is not None
        yield from commands(below.typer_instance, *path, str(below.name))


COMMANDS = dict(commands(app))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_explains_itself(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["caligo", *path, "--help"])
    assert main() == 0
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert f"Example: `caligo {' '.join(path)}" in re.sub(r"\s+", " ", inspect.getdoc(COMMANDS[path].callback) or "")
    assert f"caligo {' '.join(path)}" in shown
    if path[-1] not in WITHOUT_JSON:
        assert "--json" in shown
    for name, parameter in inspect.signature(COMMANDS[path].callback, eval_str=True).parameters.items():
        if name != "context":
            (info, *_) = getattr(parameter.annotation, "__metadata__", (None,))
            assert info is not None and info.help, f"{path}: {name}"


def test_all_of_the_contract_has_a_command() -> None:
    names = {path[-1] for path in COMMANDS}
    verbs = {"submit", "show", "list", "update", "delete", "pause", "resume", "cancel", "watch", "results", "download"}
    assert verbs | {"predict", "slice"} <= names
