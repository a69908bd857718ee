"""The sources that there are, by name: those that come with the simulator, and those of others.

A package makes a source known by an entry point of the group `caligo.epr_sources`, whose name is what a spec says in
`protocol.epr_source` and whose value is a class like `EPRSource`. What is installed is read from metadata alone; a
source is imported in the worker processes, which fill segments, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from importlib.metadata import EntryPoint, entry_points, version
from importlib.util import find_spec
from typing import Final

import numpy as np

import caligo
from caligo.errors import InvalidArgument
from caligo.physics.device import Device
from caligo_simulator.epr.source import NO_CLICK, TILE, BobBases, EPRSource, Link, Segment, segment_bytes

GROUP: Final = "caligo.epr_sources"
FIELD: Final = "protocol.epr_source"

_NEEDS: Final = {"statistical": "numpy", "netsquid": "netsquid", "sequence": "sequence"}
"""Sources that come with the simulator, and the package that each needs."""
_HOW_TO: Final = {
    "netsquid": "NetSquid is licensed and has its own package index, see docs/netsquid.md",
    "sequence": "docs/sources.md says how",
}
_NOTHING: Final = np.int8(99)
"""Stands where a source has not written."""


def installed_sources() -> dict[str, str]:
    """Names that `make_source` accepts here, with the version of what makes the rounds."""
    own = {name: _own_version(package) for name, package in _NEEDS.items() if find_spec(package)}
    return own | {name: entry.dist.version if entry.dist else "" for name, entry in _others().items()}


def check_installed(name: str) -> None:
    """Refuse a source that is not here; nothing is imported.

    Raises:
        InvalidArgument: says which there are.
    """
    here = installed_sources()
    if name not in here:
        how = f" ({_HOW_TO[name]})" if name in _HOW_TO else ""
        raise InvalidArgument(FIELD, f"{name} is not installed{how}; installed: {', '.join(here)}")


def make_source(name: str) -> EPRSource:
    """The source that a spec names, guarded where it is somebody else's.

    Raises:
        InvalidArgument: as `load_source` does.
    """
    source = load_source(name)
    return source if name in _NEEDS else _Guarded(name, source)


def load_source(name: str) -> EPRSource:
    """A source as it is.

    Raises:
        InvalidArgument: it is not installed, or cannot be imported.
    """
    check_installed(name)
    try:
        if name == "statistical":
            from caligo_simulator.epr.statistical import StatisticalSource

            return StatisticalSource()
        if name == "netsquid":
            from caligo_simulator.epr.netsquid import NetSquidSource

            return NetSquidSource()
        if name == "sequence":
            from caligo_simulator.epr.sequence import SequenceSource

            return SequenceSource()
        kind: Callable[[], EPRSource] = _others()[name].load()
        return kind()
    except Exception as error:  # an extension built for another NumPy does not only raise ImportError
        raise InvalidArgument(FIELD, f"{name} is installed but cannot be imported: {error}") from error


class _Guarded:
    """A source of somebody else's: what it writes is looked at, and its first rounds are made twice."""

    def __init__(self, name: str, source: EPRSource) -> None:
        self._name = name
        self._source = source
        self._is_repeatable: bool | None = None

    def fill(self, segment: Segment, link: Link, bob: BobBases, key: int, start: int) -> None:
        if unknown := _unknown_effects(self._source, link.device):
            raise ValueError(f"the source {self._name} knows nothing of {', '.join(unknown)} in physics.device")
        for array in segment:
            array.fill(_NOTHING)
        self._source.fill(segment, link, bob, key, start)
        if (fault := faults(segment)) is not None:
            raise ValueError(f"the source {self._name} {fault}")
        if self._is_repeatable is None:
            self._is_repeatable = self._repeats(segment, link, bob, key, start)
        if not self._is_repeatable:
            raise ValueError(f"the source {self._name} is not a function of (link, bob, key, round): rounds differ")

    def _repeats(self, first: Segment, link: Link, bob: BobBases, key: int, start: int) -> bool:
        pairs = min(TILE, first.bob_click.size)
        again = Segment.over(np.full(segment_bytes(pairs), _NOTHING, np.uint8), pairs)
        self._source.fill(again, link, bob, key, start)
        return same_rounds(again, Segment(*(array[:pairs] for array in first)))


def _unknown_effects(source: EPRSource, device: Device | None) -> list[str]:
    """Fields of a device that ask for something of which the source does not say, in `effects`, that it knows it."""
    if device is None:
        return []
    known, nothing = getattr(source, "effects", ()), Device()
    asked = (field.name for field in fields(Device) if getattr(device, field.name) != getattr(nothing, field.name))
    return [name for name in asked if name not in known]


def faults(segment: Segment) -> str | None:
    """What is wrong with the values of a segment that was filled with others before; None where nothing is."""
    if not np.isin(segment.bob_click, (0, 1, NO_CLICK)).all():
        return f"has made too few rounds, or clicks other than 0, 1 and {NO_CLICK} (none)"
    click = segment.bob_click != NO_CLICK
    for name, array in zip(Segment._fields[:3], segment[:3], strict=True):
        if not np.isin(array[click], (0, 1)).all():
            return f"has put something else than 0 and 1 into {name} of clicked rounds"
    return None


def same_rounds(a: Segment, b: Segment) -> bool:
    """Whether two segments have the same clicks, and in those the same bits and bases."""
    click = a.bob_click != NO_CLICK
    if not np.array_equal(a.bob_click, b.bob_click):
        return False
    return all(np.array_equal(x[click], y[click]) for x, y in zip(a[:3], b[:3], strict=True))


def _others() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in _NEEDS}


def _own_version(package: str) -> str:
    return caligo.__version__ if package == "numpy" else _version_of(package)


def _version_of(package: str) -> str:
    try:
        return version(package)
    except Exception:  # a package without metadata
        return ""
