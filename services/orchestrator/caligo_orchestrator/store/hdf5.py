"""The HDF5 file of a campaign, the format that users read.

The live file of a running campaign stands at its full size from the start: every group and dataset is made once, by
the HDF5 library, contiguous and allocated early, under a temporary name that is synced and renamed; `outcome` is
filled with 255 for "not yet". From then on nothing structural changes. Rows are gathered in preallocated buffers of
the batch size, and each full buffer goes in one piece to where its datasets lie in the file. So a reader may open the
file at any time, and neither the death of the writer nor a full disk can leave a file that does not open.

The journal decides what has happened; it also knows what the file was like when it was made. On a restart the file is
compared with it block by block: what a crash has kept from the file is written now, and a file that says something
else is kept beside a fresh one.

A campaign that has ended is rewritten once, at the exact size, compressed and checksummed, by atomic rename.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from caligo.dataset import DISCREPANCY_COLUMNS, GROUPS, GUARDRAIL_COLUMNS, GUARDRAIL_ROWS, HISTORY_COLUMNS, NOT_YET
from caligo.discrepancy import PROFILE_COLUMNS, PROFILE_STEPS, RELEVANCE_COLUMNS, SIGNIFICANCE
from caligo.phases import Phase
from caligo.results import COUNTS, DESCRIPTIONS, METRICS, ROW_DTYPE, ProtocolOutcome, Reason, ResultRows
from caligo.space import COLUMN_SYMBOLS, COLUMNS, DIMENSIONS, PARAMETERS

GRID_POINTS: Final = 41
"""Points an axis of the stored slice through the cliff."""
BLOCK_ROWS: Final = 8192
"""Rows compared or copied at a time."""

_INPUT_UNITS: Final = (
    *(f"log10({p.unit})" if p.is_log and p.unit != "1" else p.unit for p in PARAMETERS),
    "0 baseline, 1 blind",
)
_COLUMNS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "inputs": (COLUMNS, _INPUT_UNITS),
    "metrics": (tuple(name for name, _ in METRICS), tuple(unit for _, unit in METRICS)),
    "counts": (tuple(name for name, _ in COUNTS), tuple(unit for _, unit in COUNTS)),
}
_CODES: Final = {"outcome": ProtocolOutcome, "reason": Reason}
_FIELDS: Final = (*(name for name in ROW_DTYPE.names or () if name != "outcome"), "outcome")
"""In the order in which they are written: a row whose outcome is there is there."""
_FLOAT: Final = np.dtype("<f4")
_DESCRIPTIONS: Final[Mapping[str, str]] = {
    "relevance": "Sobol indices, a row a parameter: share of the variance of the surrogate's mean target over the "
    "space, by the measure of the design, that is owed to it alone (first_order) or to it and what it does together "
    "with others (total), with the standard errors of the integral. Margins count as -0.2 at least",
    "discrepancy": "margin of the simulator, -0.2 at least, less that of the closed form. p_value: that every row's "
    "margin is the closed form's but for symmetric noise (score test over random signs; below "
    f"{SIGNIFICANCE:g}: it is not; NaN: too few rows). bound: |difference| is below it everywhere, with 95 % "
    "probability. difference, deviation: mean and standard deviation at discrepancy_point. NaN where the surrogate did "
    "not start from the closed form",
    "discrepancy_point": "where the difference stands out most from its standard deviation",
    "discrepancy_along": "the difference along each parameter, on average over the others where the closed form's "
    "margin is above -0.1 and a frame is likelier filled than not: model coordinate, mean, half width of its 95 % band",
}

Held = Callable[[Phase, int, int], ResultRows]
"""Rows of a phase with start <= index < stop that the journal holds, by index."""


class DamagedError(Exception):
    """A file that is not what the journal says it must be."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """What decides the structure of a campaign's file.

    Attributes:
        attributes: root attributes, text each.
        sizes: rows of each phase in the campaign's full budget.
        fits: lines of the surrogate's history.
    """

    attributes: Mapping[str, str]
    sizes: Mapping[Phase, int]
    fits: int

    def to_json(self) -> str:
        """All but the versions of the software, which are those of when a file was made; and what datasets there are:
        the file of a release that had others is made anew."""
        attributes = {key: text for key, text in self.attributes.items() if key != "versions"}
        shapes = {name: dataset.shape for name, dataset in _datasets(self).items()}
        return json.dumps([attributes, list(self.sizes.items()), self.fits, shapes])


@dataclasses.dataclass(frozen=True)
class _Dataset:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fill: float | None = None

    @property
    def fill_value(self) -> NDArray[Any]:
        """What stands in the place of a value that is still to come, shape [] of `dtype`."""
        default = np.nan if self.dtype.kind == "f" else 0
        return np.array(default if self.fill is None else self.fill, dtype=self.dtype)

    @property
    def row_size(self) -> int:
        """Bytes a row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Bytes."""
        return self.shape[0] * self.row_size


def _datasets(layout: Layout) -> dict[str, _Dataset]:
    """Every dataset of a live file by its path."""
    found = {
        f"{group}/{name}": _row_field(name, layout.sizes[phase]) for phase, group in GROUPS.items() for name in _FIELDS
    }
    grid = (GRID_POINTS,)
    profiles = DIMENSIONS, PROFILE_STEPS, len(PROFILE_COLUMNS)
    for name, dataset in {
        "length_scales": _Dataset((DIMENSIONS,), _FLOAT, _named(COLUMNS)),
        "noise": _Dataset((1,), _FLOAT),
        "secure_fraction": _Dataset((2,), _FLOAT),
        "relevance": _Dataset(
            (DIMENSIONS, len(RELEVANCE_COLUMNS)), _FLOAT, {**_named(RELEVANCE_COLUMNS), **_said("relevance", layout)}
        ),
        "discrepancy": _Dataset(
            (len(DISCREPANCY_COLUMNS),), _FLOAT, {**_named(DISCREPANCY_COLUMNS), **_said("discrepancy", layout)}
        ),
        "discrepancy_rows": _Dataset((1,), np.dtype("<i8")),
        "discrepancy_point": _Dataset((DIMENSIONS,), _FLOAT, {**_named(COLUMNS), **_said("discrepancy_point", layout)}),
        "discrepancy_along": _Dataset(
            profiles, _FLOAT, {**_named(PROFILE_COLUMNS), **_said("discrepancy_along", layout)}
        ),
        "guardrail": _Dataset((len(GUARDRAIL_COLUMNS),), _FLOAT, _named(GUARDRAIL_COLUMNS)),
        "guardrail_rows": _Dataset((len(GUARDRAIL_ROWS),), np.dtype("<i8"), _named(GUARDRAIL_ROWS)),
        "cliff_axes": _Dataset((2,), np.dtype("u1")),
        "cliff_x": _Dataset(grid, _FLOAT),
        "cliff_y": _Dataset(grid, _FLOAT),
        "cliff_at": _Dataset((DIMENSIONS,), _FLOAT),
        "cliff_margin": _Dataset((2, *grid, *grid, 2), _FLOAT),
        "history": _Dataset((layout.fits, len(HISTORY_COLUMNS)), _FLOAT, _named(HISTORY_COLUMNS)),
        "forecast": _Dataset((layout.sizes[Phase.ACTIVE], 2), _FLOAT, _named(("mean", "standard_deviation"))),
    }.items():
        found[f"surrogate/{name}"] = dataset
    return found


def _row_field(name: str, rows: int) -> _Dataset:
    attributes: dict[str, Any] = {}
    if name in _COLUMNS:
        columns, units = _COLUMNS[name]
        attributes = {**_named(columns), "units": _texts(units)}
        if name != "inputs":
            attributes["descriptions"] = _texts(DESCRIPTIONS[column] for column in columns)
    if name in _CODES:
        attributes = {"codes": json.dumps({code.name.lower(): int(code) for code in _CODES[name]})}
    field = ROW_DTYPE[name]
    return _Dataset((rows, *field.shape), field.base, attributes, fill=NOT_YET if name == "outcome" else None)


def _named(columns: tuple[str, ...]) -> dict[str, Any]:
    return {"columns": _texts(columns)}


def _said(name: str, layout: Layout) -> dict[str, Any]:
    """What a dataset means, and the claim that its margins are under."""
    attributes: dict[str, Any] = {"description": _DESCRIPTIONS[name], "claim": layout.attributes.get("claim", "")}
    if name in ("relevance", "discrepancy_along"):
        attributes["parameters"] = _texts(COLUMN_SYMBOLS)
    return attributes


def _texts(texts: Iterable[str]) -> NDArray[np.object_]:
    return np.array(list(texts), dtype=h5py.string_dtype())


@dataclasses.dataclass(frozen=True)
class Structure:
    """What a live file is like from its making to its end, whatever its datasets hold: kept in the journal.

    HDF5 may go astray in a damaged file, for ever even, so no file is opened with it that is not known to be sound.

    Attributes:
        layout: of the file, as a text.
        size: bytes of the file.
        offsets: where each dataset begins.
        digest: SHA-256 of all bytes that belong to no dataset, hexadecimal.
    """

    layout: str
    size: int
    offsets: Mapping[str, int]
    digest: str

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Structure:
        return cls(**json.loads(text))


def open_live(
    path: Path, layout: Layout, known: Structure | None, batch_rows: int, held: Held
) -> tuple[HDF5Writer, Structure, str | None]:
    """The live file with every row that the journal holds.

    Args:
        known: what the file was like when it was made. Without it, or where it is of another layout, a file that is
            there is replaced: nothing is in it that the journal does not hold.

    Returns:
        The writer, what the file is like, and a line for people where the one that was there was damaged and has been
        kept beside.

    Raises:
        OSError: it cannot be read or written.
    """
    note = None
    if known is not None and known.layout == layout.to_json() and path.exists():
        try:
            return _mended(path, layout, known, batch_rows, held), known, None
        except DamagedError as error:
            kept = _set_aside(path)
            note = f"{path.name} was damaged ({error}); it is kept as {kept.name}, and made anew from the journal"
    made = _create(path, layout)
    return _mended(path, layout, made, batch_rows, held), made, note


def _mended(path: Path, layout: Layout, structure: Structure, batch_rows: int, held: Held) -> HDF5Writer:
    writer = HDF5Writer(path, layout, structure, batch_rows)
    try:
        writer.mend(held)
    except BaseException:
        writer.close()
        raise
    return writer


class HDF5Writer:
    """Writes into the live file of a running campaign.

    What is written is in the hands of the operating system when a method returns; the journal, not this file, is what
    survives the loss of power.

    Args:
        path: a live file, as `open_live` makes it.
        batch_rows: rows a buffer.

    Raises:
        DamagedError: the file is not what it was when it was made.
        OSError: (any method) the file cannot be read or written.
    """

    def __init__(self, path: Path, layout: Layout, structure: Structure, batch_rows: int) -> None:
        self._sizes = layout.sizes
        self._batch_rows = batch_rows
        self._windows: dict[tuple[Phase, int], _Window] = {}
        self._spare: list[_Window] = []
        self._datasets = _datasets(layout)
        self._places = {
            # Without rows it has no place in the file.
            name: (structure.offsets.get(name, 0), dataset.row_size, dataset.shape[0])
            for name, dataset in self._datasets.items()
        }
        with path.open("rb") as file:
            if _read_digest(file, structure.offsets, self._datasets) != (structure.size, structure.digest):
                raise DamagedError("its structure is not the one that it was made with")
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def mend(self, held: Held) -> None:
        """Write what the journal holds and the file does not, block by block.

        A crash leaves places that hold what they were made with. Anything else that the journal does not say is
        damage.

        Raises:
            DamagedError: the file contradicts the journal.
        """
        expected = _Window(BLOCK_ROWS)

        def read(phase: Phase, start: int) -> None:
            stop = min(start + BLOCK_ROWS, self._sizes[phase])
            rows = held(phase, start, stop)
            expected.open(stop - start)
            expected.put(rows["index"] - start, rows)

        lacking = []  # nothing is written before all has been compared: a damaged file is kept as it was found
        for phase, size in self._sizes.items():
            for start in range(0, size, BLOCK_ROWS):
                read(phase, start)
                lacks = [self._lacks(phase, start, name, expected) for name in _FIELDS]
                if any(lacks):
                    lacking.append((phase, start))
        for phase, start in lacking:
            read(phase, start)
            self._write_rows(phase, start, expected)

    def _lacks(self, phase: Phase, start: int, field: str, expected: _Window) -> bool:
        """Whether the file lacks some of what is expected of a field, from a row on."""
        name, values = f"{GROUPS[phase]}/{field}", expected.values[field][: expected.length]
        size = values.nbytes
        there = np.frombuffer(self._get(name, start, size), dtype=np.uint8)
        wanted = values.reshape(-1).view(np.uint8)
        differs = there != wanted
        if not differs.any():
            return False
        fill = self._datasets[name].fill_value
        contradicts = differs & (there != np.tile(fill.reshape(1).view(np.uint8), size // fill.itemsize))
        if contradicts.any():
            row = start + int(contradicts.argmax()) * expected.length // size
            raise DamagedError(f"{name} differs from the journal at row {row}")
        return True

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
                self._write_rows(phase, number * self._batch_rows, window)
                self._spare.append(self._windows.pop((phase, number)))

    def _open_window(self, phase: Phase, number: int) -> _Window:
        start = number * self._batch_rows
        length = min(self._batch_rows, self._sizes[phase] - start)
        if not 0 <= start < self._sizes[phase]:
            raise IndexError(f"{GROUPS[phase]} has {self._sizes[phase]} rows; there is no batch {number}")
        window = self._spare.pop() if self._spare else _Window(self._batch_rows)
        window.open(length)
        for name in _FIELDS:  # rows of this batch may be there since before a restart
            values = window.values[name][:length]
            raw = self._get(f"{GROUPS[phase]}/{name}", start, values.nbytes)
            values[...] = np.frombuffer(raw, dtype=values.dtype).reshape(values.shape)
        return window

    def _write_rows(self, phase: Phase, start: int, rows: _Window) -> None:
        for name in _FIELDS:
            self._put(f"{GROUPS[phase]}/{name}", start, rows.values[name][: rows.length])

    def write_history(self, lines: Mapping[int, Mapping[str, float]]) -> None:
        """Lines of the surrogate's history, by number."""
        for line, values in lines.items():
            self._put("surrogate/history", line, np.array([[values[c] for c in HISTORY_COLUMNS]], dtype=_FLOAT))

    def write_surrogate(self, values: Mapping[str, NDArray]) -> None:
        """What the surrogate has learned, by dataset name."""
        for name, value in values.items():
            dataset = self._datasets[f"surrogate/{name}"]
            self._put(f"surrogate/{name}", 0, np.asarray(value, dtype=dataset.dtype).reshape(dataset.shape))

    @property
    def unwritten(self) -> int:
        """Rows in buffers that are not full."""
        return sum(window.rows_there() for window in self._windows.values())

    def flush(self) -> None:
        """Write out buffers that are not full; they are written again when the rest of their rows comes."""
        for (phase, number), window in self._windows.items():
            self._write_rows(phase, number * self._batch_rows, window)

    def close(self) -> None:
        try:
            self.flush()
        finally:
            os.close(self._file)

    def _put(self, name: str, start: int, values: NDArray[Any]) -> None:
        """Write values, C-contiguous, from a row of a dataset on."""
        offset = self._place(name, start, values.nbytes)
        written = os.pwrite(self._file, values.data, offset)
        while written < values.nbytes:
            written += os.pwrite(self._file, values.reshape(-1).view(np.uint8)[written:].data, offset + written)

    def _get(self, name: str, start: int, size: int) -> bytes:
        """Read bytes from a row of a dataset on."""
        pieces, offset = [], self._place(name, start, size)
        while size:
            piece = os.pread(self._file, size, offset)
            if not piece:
                raise DamagedError(f"{name} is cut short")
            pieces.append(piece)
            size, offset = size - len(piece), offset + len(piece)
        return b"".join(pieces)

    def _place(self, name: str, start: int, size: int) -> int:
        """Where in the file a row of a dataset begins; `size` bytes from there belong to the dataset."""
        offset, row, rows = self._places[name]
        if start < 0 or start * row + size > rows * row:
            raise IndexError(f"{name} has {rows} rows; {size // row} from {start} on are not among them")
        return offset + start * row


class _Window:
    """A buffer for consecutive rows, a float32, int64 or uint8 array a field."""

    def __init__(self, rows: int) -> None:
        self.length = rows
        self.values = {name: np.empty((rows, *ROW_DTYPE[name].shape), dtype=ROW_DTYPE[name].base) for name in _FIELDS}

    def open(self, length: int) -> None:
        """Begin anew: `length` rows, all of them not yet there."""
        self.length = length
        for name, values in self.values.items():
            values[:length] = _row_field(name, 0).fill_value

    def put(self, offsets: NDArray[np.int64], rows: ResultRows) -> None:
        for name, values in self.values.items():
            values[offsets] = rows[name]

    def is_full(self) -> bool:
        return self.rows_there() == self.length

    def rows_there(self) -> int:
        return int(np.count_nonzero(self.values["outcome"][: self.length] != NOT_YET))


def _read_digest(file: BinaryIO, offsets: Mapping[str, int], datasets: Mapping[str, _Dataset]) -> tuple[int, str]:
    """Size of a file, and the SHA-256 of what lies between its datasets."""
    size = file.seek(0, os.SEEK_END)
    digest, at = hashlib.sha256(), 0
    for name in sorted(offsets, key=offsets.__getitem__):
        file.seek(at)
        digest.update(file.read(offsets[name] - at))
        at = offsets[name] + datasets[name].size
    file.seek(min(at, size))
    digest.update(file.read())
    return size, digest.hexdigest()


def _set_aside(path: Path) -> Path:
    """Give a damaged file a name of its own beside where it was."""
    names = (path.with_name(f"{path.stem}.damaged-{number}{path.suffix}") for number in itertools.count(1))
    kept = next(name for name in names if not name.exists())
    path.rename(kept)
    return kept


def _create(path: Path, layout: Layout) -> Structure:
    """Make a live file without rows."""
    datasets = _datasets(layout)
    with _replacing(path) as temporary:
        with _faults(), _writing(temporary) as file:
            file.attrs.update(layout.attributes)
            for name, wanted in datasets.items():
                early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                made = file.create_dataset(
                    name, shape=wanted.shape, dtype=wanted.dtype, fillvalue=wanted.fill_value[()], dcpl=early
                )
                made.attrs.update(wanted.attributes)
            offsets = {name: file[name].id.get_offset() for name in datasets if datasets[name].size}
        with _reading_back(temporary) as file:
            for name, wanted in datasets.items():
                for start in range(0, max(1, wanted.shape[0]), BLOCK_ROWS):
                    rows = min(BLOCK_ROWS, wanted.shape[0] - start)
                    _check(file[name], wanted.attributes, np.full((rows, *wanted.shape[1:]), wanted.fill_value), start)
        with temporary.open("rb") as made_file:
            size, digest = _read_digest(made_file, offsets, datasets)
        return Structure(layout.to_json(), size, offsets, digest)


def finalize(path: Path) -> None:
    """Rewrite the file of a campaign that has ended: only rows that are there, compressed and checksummed.

    Raises:
        OSError: it cannot be read or written; the file is as it was.
    """
    with _replacing(path) as temporary, _faults(), h5py.File(path, "r", locking=False) as live:
        kept = {f"{group}/{name}": _kept(live, f"{group}/{name}") for group in live for name in live[group]}
        with _writing(temporary) as final:
            final.attrs.update(live.attrs)
            for name, rows in kept.items():
                _copy(live[name], final, name, rows)
        with _reading_back(temporary) as final:
            for name, rows in kept.items():
                at = 0
                for block in _blocks(live[name], rows):
                    _check(final[name], live[name].attrs, block, at)
                    at += len(block)


def _kept(live: h5py.File, name: str) -> NDArray[np.bool_]:
    """Which rows of a dataset of the live file belong into the final one, bool [n]."""
    group, _, field = name.partition("/")
    size = len(live[name])
    if group in GROUPS.values():
        return live[group]["outcome"][...] != NOT_YET
    active = live[GROUPS[Phase.ACTIVE]]
    used = np.ones(size, dtype=np.bool_)
    if field == "forecast":  # counted by index
        used[:] = active["outcome"][...] != NOT_YET
    elif field == "history":
        used[:] = np.isfinite(live[name][:, 0])
    last = np.flatnonzero(used)
    return np.arange(size) <= (last[-1] if len(last) else -1)


def _copy(dataset: h5py.Dataset, final: h5py.File, name: str, kept: NDArray[np.bool_]) -> None:
    shape = (int(kept.sum()), *dataset.shape[1:])
    packed = {"compression": "gzip", "shuffle": True, "fletcher32": True} if np.prod(shape) else {}
    copy = final.create_dataset(name, shape, dataset.dtype, **packed)
    copy.attrs.update(dataset.attrs)
    at = 0
    for block in _blocks(dataset, kept):
        copy[at : at + len(block)] = block
        at += len(block)


def _blocks(dataset: h5py.Dataset, kept: NDArray[np.bool_]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(dataset), BLOCK_ROWS):
        yield dataset[start : start + BLOCK_ROWS][kept[start : start + BLOCK_ROWS]]


class _Disk(io.FileIO):
    """A file that HDF5 writes, and that does not tell it of a fault but remembers it.

    HDF5 crashes, and the process with it, where a write fails while it closes a dataset.
    """

    fault: OSError | None = None

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left and self.fault is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.fault = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.fault = self.fault or error
            return self.tell() if size is None else size


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file; raises OSError at the end where the disk was at fault."""
    with _Disk(path, "w+") as disk:
        try:
            with h5py.File(disk, "w") as file:
                yield file
        except Exception as error:
            raise disk.fault or error from error
        if disk.fault is not None:
            raise disk.fault


@contextlib.contextmanager
def _reading_back(path: Path) -> Iterator[h5py.File]:
    """A file just written, to be compared with what was to be written."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (KeyError, RuntimeError) as error:
        raise OSError(f"{path.name} does not read back: {error}") from error


def _check(dataset: h5py.Dataset, attributes: Mapping[str, Any], values: NDArray[Any], start: int = 0) -> None:
    there = dataset[start : start + len(values)]
    if (there.dtype, there.shape) != (values.dtype, values.shape) or there.tobytes() != values.tobytes():
        raise OSError(f"{dataset.name} reads back other than it was written")
    for key, value in attributes.items():
        if not np.array_equal(dataset.attrs[key], value):
            raise OSError(f"attribute {key!r} of {dataset.name} reads back other than it was written")


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    """h5py says some faults of the disk as RuntimeError, others as OSError; here they are all OSError."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from error


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
