"""The HDF5 file: float32, rows where they belong, readable at any time, mended after anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from caligo_orchestrator.store import hdf5
from caligo_orchestrator.store.hdf5 import HDF5Writer, Layout, Structure, finalize, open_live
from hypothesis import given, settings
from hypothesis import strategies as st

from caligo.dataset import HISTORY_COLUMNS, NOT_YET
from caligo.layout import FILE_NAME
from caligo.phases import Phase
from caligo.results import COUNT_NAMES, DESCRIPTIONS, METRIC_NAMES, ROW_DTYPE, ResultRows, empty_rows
from caligo.space import COLUMNS

QUICK = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where a sync costs nothing."""
SIZES = {Phase.LHS: 50, Phase.ACTIVE: 20}
LAYOUT = Layout({"spec": "{}", "format": "f", "versions": "1"}, SIZES, fits=3)


def some_rows(indices: list[int] | range) -> ResultRows:
    generator = np.random.default_rng(7)
    rows = np.zeros(len(indices), dtype=ROW_DTYPE)
    rows["index"] = indices
    values = generator.random((SIZES[Phase.LHS], 9), dtype=np.float32)
    rows["inputs"] = values[indices]
    rows["metrics"] = -values[indices]
    rows["counts"] = np.array(indices, dtype=np.int64)[:, None] * 2**40
    rows["outcome"], rows["reason"] = 3, 7
    return rows


class Held:
    """Stands for the journal."""

    def __init__(self, lhs: ResultRows | None = None, active: ResultRows | None = None) -> None:
        self.rows = {
            Phase.LHS: empty_rows() if lhs is None else lhs,
            Phase.ACTIVE: empty_rows() if active is None else active,
        }

    def __call__(self, phase: Phase, start: int, stop: int) -> ResultRows:
        rows = self.rows[phase]
        return rows[(rows["index"] >= start) & (rows["index"] < stop)]


def make(path: Path, held: Held | None = None, layout: Layout = LAYOUT, batch: int = 8) -> HDF5Writer:
    return open_live(path, layout, None, batch, held or Held())[0]


def table(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, node: found.__setitem__(name, node[...]) if hasattr(node, "dtype") else None)
    return found


def assert_same(one: Path, other: Path) -> None:
    left, right = table(one), table(other)
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].tobytes() == right[name].tobytes(), name


def assert_rows(path: Path, indices: set[int]) -> None:
    with h5py.File(path) as file:
        group = file["lhs_warmup"]
        there = np.flatnonzero(group["outcome"][...] != NOT_YET)
        assert set(group["index"][...][there].tolist()) == indices
        wanted = some_rows(sorted(indices))
        for name in ("inputs", "metrics", "counts", "outcome", "reason", "index"):
            assert np.array_equal(group[name][...][there], wanted[name]), name


def test_no_float64_anywhere(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    writer = make(path)
    writer.write(Phase.LHS, some_rows(range(50)))
    writer.close()
    for stage in ("live", "final"):
        if stage == "final":
            finalize(path)
        kinds = {name: values.dtype for name, values in table(path).items()}
        assert kinds["lhs_warmup/inputs"] == kinds["active_learning/metrics"] == np.float32
        assert {str(kind) for kind in kinds.values()} == {"float32", "int64", "uint8"}


def test_every_dataset_is_contiguous_and_allocated_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    make(path).close()
    with h5py.File(path) as file:
        for group in file.values():
            for dataset in group.values():
                assert dataset.chunks is None
                assert dataset.id.get_create_plist().get_alloc_time() == h5py.h5d.ALLOC_TIME_EARLY
                assert dataset.id.get_storage_size() == dataset.nbytes > 0
        assert set(file.attrs) == {"spec", "format", "versions"}
        assert (file["lhs_warmup/outcome"][...] == 255).all()
    with path.open("rb") as raw:
        assert raw.read(9) == b"\x89HDF\r\n\x1a\n\x00"  # the oldest superblock: every HDF5 opens it


def test_only_the_rows_change(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    writer, structure, _ = open_live(path, LAYOUT, None, 8, Held())
    before = path.read_bytes()
    writer.write(Phase.LHS, some_rows(range(50)))
    writer.write_history({0: dict.fromkeys(HISTORY_COLUMNS, 1.0)})
    writer.write_surrogate({"cliff_axes": np.array([1, 2])})
    writer.close()
    after = path.read_bytes()
    assert before != after
    assert len(before) == len(after) == structure.size
    writer = open_live(path, LAYOUT, structure, 8, Held(some_rows(range(50))))[0]  # its structure is what it was
    writer.close()
    assert path.read_bytes() == after


def test_columns_units_and_codes_are_named(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    make(path).close()
    for stage in ("live", "final"):
        if stage == "final":
            finalize(path)
        with h5py.File(path) as file:
            group = file["lhs_warmup"]
            assert tuple(group["inputs"].attrs["columns"]) == COLUMNS
            assert tuple(group["metrics"].attrs["columns"]) == METRIC_NAMES
            assert len(group["inputs"].attrs["units"]) == 9
            assert list(group["metrics"].attrs["descriptions"]) == [DESCRIPTIONS[name] for name in METRIC_NAMES]
            assert list(group["counts"].attrs["descriptions"]) == [DESCRIPTIONS[name] for name in COUNT_NAMES]
            assert json.loads(group["outcome"].attrs["codes"])["skipped_predicted_failure"] == 8
            assert dict(file.attrs) == LAYOUT.attributes


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(50)), st.integers(0, 50), st.integers(1, 9))
def test_rows_in_any_order_land_at_their_index(order: list[int], stop: int, group: int) -> None:
    with tempfile.TemporaryDirectory(dir=QUICK) as directory:
        path = Path(directory) / FILE_NAME
        writer = make(path)
        for start in range(0, stop, group):
            writer.write(Phase.LHS, some_rows(order[start : min(start + group, stop)]))
        writer.flush()
        assert_rows(path, set(order[:stop]))
        writer.write(Phase.LHS, some_rows(order[stop:]))
        writer.close()
        assert_rows(path, set(range(50)))
        finalize(path)
        assert_rows(path, set(range(50)))


def test_a_row_outside_its_dataset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    writer = make(path)
    before = path.read_bytes()
    row = some_rows([0])
    for index in (56, -1, 2**40):  # 50 to 55 share the last buffer
        row["index"] = index
        with pytest.raises(IndexError):
            writer.write(Phase.LHS, row)
    with pytest.raises(IndexError):
        writer.write_history({3: dict.fromkeys(HISTORY_COLUMNS, 0.0)})
    writer.close()
    assert path.read_bytes() == before


def test_a_full_buffer_is_in_the_file_while_the_campaign_runs(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    writer = make(path)
    writer.write(Phase.LHS, some_rows(range(8, 16)))
    writer.write(Phase.LHS, some_rows([0, 1]))
    assert_rows(path, set(range(8, 16)))  # the buffer of 0 and 1 is not full
    writer.close()
    assert_rows(path, {0, 1, *range(8, 16)})


READER = """
import sys, h5py, numpy as np
path, opened, seen = sys.argv[1], 0, 0
while seen < int(sys.argv[2]):
    with h5py.File(path) as file:
        group = file["lhs_warmup"]
        there = np.flatnonzero(group["outcome"][...] != 255)
        index, inputs, counts = (group[name][...][there] for name in ("index", "inputs", "counts"))
        assert (index == there).all()
        assert (inputs == index[:, None].astype(np.float32)).all()
        assert (counts == index[:, None] * 3).all()
        assert len(there) >= seen, "rows have gone"
        seen, opened = len(there), opened + 1
        if opened == 1:
            print("reading", flush=True)
print(opened)
"""


def test_plain_h5py_opens_the_live_file_at_any_moment(tmp_path: Path) -> None:
    path, rows = tmp_path / FILE_NAME, np.zeros(4000, dtype=ROW_DTYPE)
    rows["index"], rows["outcome"] = np.arange(len(rows)), 1
    rows["inputs"], rows["counts"] = rows["index"][:, None], rows["index"][:, None] * 3
    layout = Layout({}, {Phase.LHS: len(rows), Phase.ACTIVE: 0}, fits=1)
    writer, structure, _ = open_live(path, layout, None, 64, Held())
    command = [sys.executable, "-c", READER, str(path), str(len(rows))]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        for start in range(0, len(rows), 8):
            if start % 800 == 400:  # a restart in between: compared and mended under the reader's eyes
                writer.close()
                writer = open_live(path, layout, structure, 64, Held(rows[:start]))[0]
            writer.write(Phase.LHS, rows[start : start + 8])
            time.sleep(0.002)
        writer.close()
        out, errors = reader.communicate(timeout=60)
        assert reader.returncode == 0, errors
        assert int(out) > 10
    finally:
        reader.kill()
        reader.wait()


def test_rows_not_there_yet_hold_nothing(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    writer = make(path)
    writer.write(Phase.LHS, some_rows(range(8)))  # this buffer is used again
    writer.write(Phase.LHS, some_rows([9]))
    writer.close()
    with h5py.File(path) as file:
        group = file["lhs_warmup"]
        missing = np.flatnonzero(group["outcome"][...] == NOT_YET)
        assert missing.tolist() == [8, *range(10, 50)]
        assert np.isnan(group["inputs"][...][missing]).all()
        assert np.isnan(group["metrics"][...][missing]).all()
        assert not group["index"][...][missing].any()


def test_buffers_are_bounded_by_what_is_open(tmp_path: Path) -> None:
    writer = make(tmp_path / FILE_NAME, layout=Layout({}, {Phase.LHS: 50, Phase.ACTIVE: 0}, 1), batch=5)
    for start in range(0, 50, 5):
        writer.write(Phase.LHS, some_rows(range(start, start + 5)))
        assert len(writer._windows) == 0
        assert len(writer._spare) == 1
    writer.close()


def test_history_and_surrogate(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    writer = make(path)
    writer.write_history({1: {name: j for j, name in enumerate(HISTORY_COLUMNS)}})
    writer.write_surrogate({"length_scales": np.arange(9, dtype=np.float32)})
    writer.close()
    with h5py.File(path) as file:
        history = file["surrogate/history"][...]
        assert np.isnan(history[[0, 2]]).all()
        assert history[1].tolist() == list(range(len(HISTORY_COLUMNS)))
        assert file["surrogate/length_scales"][...].tolist() == list(range(9))


# --- after a crash --------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 49)), st.sets(st.integers(0, 49)), st.integers(1, 9), st.booleans())
def test_what_a_crash_has_kept_from_the_file_is_written_at_the_next_start(
    before: set[int], lost: set[int], group: int, is_flushed: bool
) -> None:
    with tempfile.TemporaryDirectory(dir=QUICK) as name:
        directory = Path(name)
        writer, structure, _ = open_live(directory / FILE_NAME, LAYOUT, None, 8, Held())
        order = sorted(before)
        for start in range(0, len(order), group):
            writer.write(Phase.LHS, some_rows(order[start : start + group]))
        if is_flushed:
            writer.flush()
        os.close(writer._file)  # killed: what is in the buffers is gone, the journal has all
        held = Held(some_rows(sorted(before | lost)), some_rows(range(5)))
        again, _, note = open_live(directory / FILE_NAME, LAYOUT, structure, 8, held)
        assert note is None
        again.close()
        make(directory / "undisturbed.h5", held).close()
        assert_same(directory / FILE_NAME, directory / "undisturbed.h5")
        assert len(list(directory.iterdir())) == 2


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_file_is_kept_beside_a_fresh_one(data: st.DataObject) -> None:
    """Bytes flipped, blanked or cut off anywhere: what may be a crash's doing is mended, all else is made anew."""
    held = Held(some_rows(range(30)), some_rows(range(4)))
    with tempfile.TemporaryDirectory(dir=QUICK) as name:
        directory = Path(name)
        path = directory / FILE_NAME
        make(directory / "undisturbed.h5", held).close()
        writer, structure, _ = open_live(path, LAYOUT, None, 8, held)
        writer.close()
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1), label="at")
        kind = data.draw(st.sampled_from(["flip", "blank", "cut"]), label="kind")
        if kind == "flip":
            content[at] ^= data.draw(st.integers(1, 255), label="bits")
        elif kind == "blank":
            content[at : at + 300] = bytes(len(content[at : at + 300]))
        else:
            del content[at:]
        path.write_bytes(content)
        writer, _, note = open_live(path, LAYOUT, structure, 8, held)
        writer.close()
        rows, wanted = table(path), table(directory / "undisturbed.h5")
        for dataset in rows:
            if not dataset.startswith("surrogate"):  # written anew from the journal in any case
                assert rows[dataset].tobytes() == wanted[dataset].tobytes(), dataset
        kept = list(directory.glob("*.damaged-*"))
        assert [file.name for file in kept] == ([] if note is None else ["exploration_data.damaged-1.h5"])
        assert all(file.read_bytes() == content for file in kept)


def test_damage_is_named_and_numbered(tmp_path: Path) -> None:
    path, held = tmp_path / FILE_NAME, Held(some_rows(range(30)))
    writer, structure, _ = open_live(path, LAYOUT, None, 8, held)
    writer.close()
    for number in (1, 2):
        with h5py.File(path, "r+") as file:
            file["lhs_warmup/counts"][17, 3] += 1
        writer, structure, note = open_live(path, LAYOUT, structure, 8, held)
        writer.close()
        assert note is not None
        assert "lhs_warmup/counts differs from the journal at row 17" in note
        assert f"exploration_data.damaged-{number}.h5" in note
    with h5py.File(path, "r+") as file:  # a row that the journal has never heard of
        file["lhs_warmup/outcome"][40] = 1
    assert "row 40" in (open_live(path, LAYOUT, structure, 8, held)[2] or "")


@pytest.mark.parametrize("layout", [Layout({"spec": "other"}, SIZES, 3), Layout({}, {**SIZES, Phase.ACTIVE: 30}, 3)])
def test_a_file_of_another_layout_makes_room(tmp_path: Path, layout: Layout) -> None:
    path, held = tmp_path / FILE_NAME, Held(some_rows(range(30)))
    writer, structure, _ = open_live(path, LAYOUT, None, 8, held)
    writer.close()
    for known in (structure, None):
        writer, _, note = open_live(path, layout, known, 8, held)
        writer.close()
        assert note is None
        assert_rows(path, set(range(30)))
    assert [p.name for p in tmp_path.iterdir()] == [FILE_NAME]


def test_another_version_of_the_software_goes_on_with_the_file(tmp_path: Path) -> None:
    path, held = tmp_path / FILE_NAME, Held(some_rows(range(30)))
    writer, structure, _ = open_live(path, LAYOUT, None, 8, held)
    writer.close()
    inode = path.stat().st_ino
    newer = Layout({**LAYOUT.attributes, "versions": "2"}, SIZES, 3)
    writer, _, note = open_live(path, newer, Structure.from_json(structure.to_json()), 8, held)
    writer.close()
    assert note is None
    assert path.stat().st_ino == inode


# --- the end --------------------------------------------------------------------------------------------------------


def test_the_final_file_has_the_exact_size_and_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "BLOCK_ROWS", 7)  # blocks do not end where rows do
    path = tmp_path / FILE_NAME
    writer = make(path)
    early = [0, 1, 2, 5, 6, 20, 33]  # as after a cancel, with gaps
    writer.write(Phase.LHS, some_rows(early))
    writer.write(Phase.ACTIVE, some_rows(range(11)))
    writer.write_history({1: dict.fromkeys(HISTORY_COLUMNS, 1.0)})
    writer.write_surrogate({"forecast": np.ones((20, 2))})
    writer.close()
    finalize(path)
    assert_rows(path, set(early))
    with h5py.File(path) as file:
        assert len(file["lhs_warmup/outcome"]) == len(early)
        assert len(file["active_learning/inputs"]) == len(file["surrogate/forecast"]) == 11
        assert len(file["surrogate/history"]) == 2
        for group in file.values():
            for dataset in group.values():
                assert dataset.fletcher32
                assert dataset.compression == "gzip"
        place = file["lhs_warmup/inputs"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as raw:  # a byte that goes bad later does not go unnoticed
        raw.seek(place + 3)
        byte = raw.read(1)[0]
        raw.seek(place + 3)
        raw.write(bytes([byte ^ 8]))
    with h5py.File(path) as file, pytest.raises(OSError, match="filter"):
        file["lhs_warmup/inputs"][...]


def test_a_campaign_without_rows_ends_in_a_file_without_rows(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    make(path).close()
    finalize(path)
    found = table(path)
    assert len(found["lhs_warmup/outcome"]) == len(found["active_learning/inputs"]) == 0
    assert len(found["surrogate/history"]) == len(found["surrogate/forecast"]) == 0


def test_a_failed_rewrite_leaves_the_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / FILE_NAME
    writer = make(path)
    writer.write(Phase.LHS, some_rows(range(50)))
    writer.close()
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Unable to flush file (errno = 28)")  # as h5py says it

    monkeypatch.setattr(h5py.Group, "create_dataset", fail)
    with pytest.raises(OSError, match="errno = 28"):
        finalize(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [FILE_NAME]
