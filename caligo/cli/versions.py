"""What is installed here, and where it came from."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

import caligo

DECISIVE: Final = ("numpy", "numba", "scipy", "torch", "gpytorch", "botorch", "grpcio", "h5py")
"""Libraries whose version may show in a campaign's numbers, its speed or its file."""


def lines() -> Iterator[str]:
    """Version and place of the library, of each other distribution of the suite, and of the libraries below."""
    yield f"caligo {caligo.__version__} in {Path(caligo.__file__).parent}{_source('caligo')}"
    parts = {part.name: part for part in metadata.distributions() if part.name.startswith("caligo-")}
    for name in sorted(parts):
        yield f"{name} {parts[name].version}{_source(name)}"
    below = [f"{name} {version}" for name in DECISIVE if (version := _version(name))]
    yield ", ".join([f"Python {platform.python_version()}", *below])


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _source(name: str) -> str:
    """Where a distribution was installed from, if that was no index (PEP 610)."""
    try:
        noted = metadata.distribution(name).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return ", not installed"
    if noted is None:
        return ""
    origin = json.loads(noted)
    commit = origin.get("vcs_info", {}).get("commit_id", "")
    return f", from {origin['url'].removeprefix('file://')}{f' at {commit}' if commit else ''}"
