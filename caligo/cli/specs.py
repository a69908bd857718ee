"""A campaign's spec from the command line: flag over environment over YAML over default.

The environment variable of `active.samples` is `CALIGO_SPEC__ACTIVE__SAMPLES`; its flag is `--set active.samples=50`.
Values are read as YAML.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from caligo import yaml12
from caligo.errors import InvalidArgument
from caligo.space import SYMBOLS
from caligo.spec import Bounds, CampaignSpec, validate

ENVIRONMENT_PREFIX: Final = "CALIGO_SPEC__"


def load(
    path: Path | None,
    assignments: Iterable[str] = (),
    seed: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> CampaignSpec:
    """The spec in a YAML file, or the defaults where there is none, with what environment and flags say otherwise.

    Args:
        assignments: `key=value` each, the key a path such as `space.bounds.F`.
        seed: the campaign's seed.

    Raises:
        InvalidArgument: no such file, an unknown key or variable, or a value that is not allowed.
    """
    values: dict[str, Any] = yaml12.read(path) if path else {}
    for name in sorted(environment):
        if name.startswith(ENVIRONMENT_PREFIX):
            _assign(values, _path_of_variable(name), yaml12.parse(environment[name], name))
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key:
            raise InvalidArgument(f"--set {assignment}", "must be KEY=VALUE, e.g. active.samples=50")
        _assign(values, key.strip().split("."), yaml12.parse(text, f"--set {key}"))
    if seed is not None:
        values["seed"] = seed
    return validate(CampaignSpec, values)


def _path_of_variable(name: str) -> list[str]:
    """The path that a variable stands for; variables do not tell upper from lower case, keys do."""
    found: list[str] = []
    level: type[BaseModel] | None = CampaignSpec
    for part in name.removeprefix(ENVIRONMENT_PREFIX).split("__"):
        known = _keys(level, found)
        match = next((key for key in known if key.lower() == part.lower()), None)
        if match is None:
            where = ".".join(found) or "the spec"
            raise InvalidArgument(name, f"no such setting; {where} has {', '.join(known) or 'none below it'}")
        found.append(match)
        level = _model_of(level, match, found)
    return found


def _keys(level: type[BaseModel] | None, path: list[str]) -> tuple[str, ...]:
    if path == ["space", "bounds"]:
        return SYMBOLS
    return tuple(level.model_fields) if level else ()


def _model_of(level: type[BaseModel] | None, key: str, path: list[str]) -> type[BaseModel] | None:
    if path[:2] == ["space", "bounds"]:
        return Bounds if len(path) == 3 else None
    annotation = level.model_fields[key].annotation if level else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _assign(values: dict[str, Any], path: list[str], value: Any) -> None:
    *parents, last = path
    for depth, key in enumerate(parents):
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise InvalidArgument(".".join(parents[: depth + 1]), "must hold a mapping of settings")
    values[last] = value
