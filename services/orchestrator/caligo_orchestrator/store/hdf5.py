"""The HDF5 file of a campaign, the format that users read.

While a campaign runs, every group and dataset stands at its full size from the start (contiguous, allocated early,
`outcome` filled with 255 for "not yet"), so that nothing structural ever changes and a reader may open the file at
any time. Rows are gathered in preallocated float32 buffers of the batch size and each full buffer is written in one
piece. A finished campaign is rewritten once, compressed and checksummed, by atomic rename.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import h5py
import numpy as np
from numpy.typing import NDArray

from caligo.dataset import GROUPS, GUARDRAIL_COLUMNS, GUARDRAIL_ROWS, HISTORY_COLUMNS, NOT_YET
from caligo.results import COUNTS, METRICS, ROW_DTYPE, ProtocolOutcome, Reason, ResultRows
from caligo.seeds import Phase
from caligo.space import COLUMNS, DIMENSIONS, PARAMETERS

GRID_POINTS: Final = 41
"""Points an axis of the stored slice through the cliff."""

_INPUT_UNITS: Final = (
    *(f"log10({p.unit})" if p.is_log and p.unit != "1" else p.unit for p in PARAMETERS),
    "0 baseline, 1 blind",
)
_FIELDS: Final[Mapping[str, tuple[tuple[int, ...], str, tuple[str, ...], tuple[str, ...]]]] = {
    "inputs": ((DIMENSIONS,), "float32", COLUMNS, _INPUT_UNITS),
    "metrics": ((len(METRICS),), "float32", tuple(n for n, _ in METRICS), tuple(u for _, u in METRICS)),
    "counts": ((len(COUNTS),), "int64", tuple(n for n, _ in COUNTS), tuple(u for _, u in COUNTS)),
    "outcome": ((), "uint8", (), ()),
    "reason": ((), "uint8", (), ()),
    "index": ((), "int64", (), ()),
}
_CODES: Final = {"outcome": ProtocolOutcome, "reason": Reason}
_SURROGATE: Final[Mapping[str, tuple[tuple[int, ...], str]]] = {
    "length_scales": ((DIMENSIONS,), "float32"),
    "noise": ((1,), "float32"),
    "secure_fraction": ((2,), "float32"),
    "guardrail": ((len(GUARDRAIL_COLUMNS),), "float32"),
    "guardrail_rows": ((len(GUARDRAIL_ROWS),), "int64"),
    "cliff_axes": ((2,), "uint8"),
    "cliff_x": ((GRID_POINTS,), "float32"),
    "cliff_y": ((GRID_POINTS,), "float32"),
    "cliff_at": ((DIMENSIONS,), "float32"),
    "cliff_margin": ((2, GRID_POINTS, GRID_POINTS, 2), "float32"),
}


_NOTHING_YET: Final = np.zeros((), dtype=ROW_DTYPE)
"""What stands in the place of a row that is still to come."""
_NOTHING_YET["inputs"] = _NOTHING_YET["metrics"] = np.nan
_NOTHING_YET["outcome"] = NOT_YET
_COPY_ROWS: Final = 65_536


class HDF5Writer:
    """The live file of a running campaign.

    Args:
        path: where the file is to stand; made under a temporary name and renamed when it is complete.
        attributes: root attributes, text each.
        sizes: rows of each phase in the campaign's full budget.
        fits: lines of the surrogate's history.
        batch_rows: rows a buffer.
    """

    def __init__(
        self,
        path: Path,
        attributes: Mapping[str, str],
        sizes: Mapping[Phase, int],
        fits: int,
        batch_rows: int,
    ) -> None:
        self._batch_rows = batch_rows
        self._windows: dict[tuple[Phase, int], _Window] = {}
        self._spare: list[ResultRows] = []
        with _replacing(path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs.update(attributes)
            for phase, name in GROUPS.items():
                _create_rows(file.create_group(name), sizes[phase])
            _create_surrogate(file.create_group("surrogate"), fits, sizes[Phase.ACTIVE])
        self._file = h5py.File(path, "r+", locking=False)  # readers may open it at any time

    def write(self, phase: Phase, rows: ResultRows) -> None:
        """Put rows into their buffers by index; every buffer that is full thereby goes to the file in one piece."""
        numbers, offsets = np.divmod(rows["index"], self._batch_rows)
        for number in np.unique(numbers).tolist():
            window = self._windows.get((phase, number))
            if window is None:
                window = self._windows[phase, number] = self._open_window(phase, number)
            here = numbers == number
            window.put(offsets[here], rows[here])
            if window.is_full():
                self._write_window(phase, number)
                self._spare.append(self._windows.pop((phase, number)).buffer)
                self._file.flush()

    def _open_window(self, phase: Phase, number: int) -> _Window:
        size = len(self._file[GROUPS[phase]]["index"])
        length = min(self._batch_rows, size - number * self._batch_rows)
        buffer = self._spare.pop() if self._spare else np.empty(self._batch_rows, dtype=ROW_DTYPE)
        return _Window(buffer, length)

    def _write_window(self, phase: Phase, number: int) -> None:
        window = self._windows[phase, number]
        group = self._file[GROUPS[phase]]
        start = number * self._batch_rows
        for name in _FIELDS:
            group[name][start : start + window.length] = np.ascontiguousarray(window.buffer[name][: window.length])

    def write_fit(self, line: int, values: Mapping[str, float]) -> None:
        """One line of the surrogate's history."""
        self._file["surrogate/history"][line] = np.array([values[c] for c in HISTORY_COLUMNS], dtype=np.float32)
        self._file.flush()

    def write_surrogate(self, values: Mapping[str, NDArray]) -> None:
        """What the surrogate has learned, by dataset name."""
        for name, value in values.items():
            self._file["surrogate"][name][...] = value
        self._file.flush()

    def flush(self) -> None:
        """Write out buffers that are not full; they are written again when the rest of their rows comes."""
        for phase, number in self._windows:
            self._write_window(phase, number)
        self._file.flush()

    def close(self) -> None:
        self.flush()
        self._file.close()


class _Window:
    """A buffer for `length` consecutive rows."""

    def __init__(self, buffer: ResultRows, length: int) -> None:
        buffer[:] = _NOTHING_YET
        self.buffer = buffer
        self.length = length

    def put(self, offsets: NDArray[np.int64], rows: ResultRows) -> None:
        self.buffer[offsets] = rows

    def is_full(self) -> bool:
        return bool((self.buffer["outcome"][: self.length] != NOT_YET).all())


def _create_rows(group: h5py.Group, size: int) -> None:
    for name, (tail, dtype, columns, units) in _FIELDS.items():
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        dataset = group.create_dataset(
            name,
            shape=(size, *tail),
            dtype=dtype,
            fillvalue=NOT_YET if name == "outcome" else (np.nan if dtype == "float32" else 0),
            dcpl=properties,
        )
        _describe(dataset, name, columns, units)


def _describe(dataset: h5py.Dataset, name: str, columns: tuple[str, ...], units: tuple[str, ...]) -> None:
    if columns:
        dataset.attrs["columns"] = np.array(columns, dtype=h5py.string_dtype())
        dataset.attrs["units"] = np.array(units, dtype=h5py.string_dtype())
    if name in _CODES:
        dataset.attrs["codes"] = json.dumps({code.name.lower(): int(code) for code in _CODES[name]})


def _create_surrogate(group: h5py.Group, fits: int, active_rows: int) -> None:
    for name, (shape, dtype) in _SURROGATE.items():
        group.create_dataset(name, shape=shape, dtype=dtype, fillvalue=np.nan if dtype == "float32" else 0)
    history = group.create_dataset("history", shape=(fits, len(HISTORY_COLUMNS)), dtype="float32", fillvalue=np.nan)
    history.attrs["columns"] = np.array(HISTORY_COLUMNS, dtype=h5py.string_dtype())
    forecast = group.create_dataset("forecast", shape=(active_rows, 2), dtype="float32", fillvalue=np.nan)
    for dataset, columns in (
        (group["length_scales"], COLUMNS),
        (group["guardrail"], GUARDRAIL_COLUMNS),
        (group["guardrail_rows"], GUARDRAIL_ROWS),
        (forecast, ("mean", "standard_deviation")),
    ):
        dataset.attrs["columns"] = np.array(columns, dtype=h5py.string_dtype())


def finalize(path: Path) -> None:
    """Rewrite a finished campaign's file compressed and checksummed, by atomic rename."""
    with _replacing(path) as temporary, h5py.File(path, "r") as live, h5py.File(temporary, "w") as final:
        final.attrs.update(live.attrs)
        for group_name, group in live.items():
            target = final.create_group(group_name)
            for name, dataset in group.items():
                copy = target.create_dataset(
                    name,
                    dataset.shape,
                    dataset.dtype,
                    **({"compression": "gzip", "shuffle": True, "fletcher32": True} if dataset.size else {}),
                )
                for start in range(0, len(dataset), _COPY_ROWS):
                    copy[start : start + _COPY_ROWS] = dataset[start : start + _COPY_ROWS]
                copy.attrs.update(dataset.attrs)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that is synced and renamed over it when the block ends well."""
    temporary = path.with_name(path.name + ".new")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        temporary.unlink(missing_ok=True)
