"""The HDF5 file: float32, rows where they belong, readable at any time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from caligo_orchestrator.store.hdf5 import HDF5Writer, finalize
from hypothesis import given, settings
from hypothesis import strategies as st

from caligo.dataset import FILE_NAME, HISTORY_COLUMNS, NOT_YET
from caligo.results import METRIC_NAMES, ROW_DTYPE, ResultRows
from caligo.seeds import Phase
from caligo.space import COLUMNS

SIZES = {Phase.LHS: 50, Phase.ACTIVE: 20}


def some_rows(indices: list[int]) -> ResultRows:
    generator = np.random.default_rng(7)
    rows = np.zeros(len(indices), dtype=ROW_DTYPE)
    rows["index"] = indices
    values = generator.random((SIZES[Phase.LHS], 9), dtype=np.float32)
    rows["inputs"] = values[indices]
    rows["metrics"] = -values[indices]
    rows["counts"] = np.array(indices, dtype=np.int64)[:, None] * 2**40
    rows["outcome"], rows["reason"] = 3, 7
    return rows


def make(path: Path) -> HDF5Writer:
    return HDF5Writer(path, {"spec": "{}", "format": "f"}, SIZES, fits=3, batch_rows=8)


def assert_rows(path: Path, indices: set[int]) -> None:
    with h5py.File(path, "r", locking=False) as file:  # the writer's own process must agree with it on locking
        group = file["lhs_warmup"]
        there = np.flatnonzero(group["outcome"][...] != NOT_YET)
        assert set(there.tolist()) == indices
        wanted = some_rows(sorted(indices))
        for name in ("inputs", "metrics", "counts", "outcome", "reason", "index"):
            assert np.array_equal(group[name][...][there], wanted[name]), name


def test_no_float64_anywhere(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    writer = make(path)
    writer.write(Phase.LHS, some_rows(list(range(50))))
    writer.close()
    for stage in ("live", "final"):
        if stage == "final":
            finalize(path)
        with h5py.File(path) as file:
            kinds = {f"{g}/{d}": file[g][d].dtype for g in file for d in file[g]}
        assert kinds["lhs_warmup/inputs"] == kinds["active_learning/metrics"] == np.float32
        assert {str(kind) for kind in kinds.values()} == {"float32", "int64", "uint8"}


def test_columns_units_and_codes_are_named(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    make(path).close()
    with h5py.File(path) as file:
        group = file["lhs_warmup"]
        assert tuple(group["inputs"].attrs["columns"]) == COLUMNS
        assert tuple(group["metrics"].attrs["columns"]) == METRIC_NAMES
        assert len(group["inputs"].attrs["units"]) == 9
        assert json.loads(group["outcome"].attrs["codes"])["skipped_predicted_failure"] == 8
        assert dict(file.attrs) == {"spec": "{}", "format": "f"}


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(50)), st.integers(0, 50), st.integers(1, 9))
def test_rows_in_any_order_land_at_their_index(order: list[int], stop: int, group: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
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


def test_a_full_buffer_is_in_the_file_while_the_campaign_runs(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    writer = make(path)
    writer.write(Phase.LHS, some_rows(list(range(8, 16))))
    writer.write(Phase.LHS, some_rows([0, 1]))
    assert_rows(path, set(range(8, 16)))  # the buffer of 0 and 1 is not full
    reader = "import h5py, sys; print(int((h5py.File(sys.argv[1])['lhs_warmup/outcome'][...] != 255).sum()))"
    seen = subprocess.run([sys.executable, "-c", reader, path], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "8"  # another process, while the writer has the file open
    writer.close()
    assert_rows(path, {0, 1, *range(8, 16)})


def test_rows_not_there_yet_hold_nothing(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    writer = make(path)
    writer.write(Phase.LHS, some_rows(list(range(8))))  # this buffer is used again
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
    writer = HDF5Writer(tmp_path / FILE_NAME, {}, {Phase.LHS: 50, Phase.ACTIVE: 0}, fits=1, batch_rows=5)
    for start in range(0, 50, 5):
        writer.write(Phase.LHS, some_rows(list(range(start, start + 5))))
        assert len(writer._windows) == 0
        assert len(writer._spare) == 1
    writer.close()


def test_history_and_surrogate(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    writer = make(path)
    writer.write_fit(1, {name: j for j, name in enumerate(HISTORY_COLUMNS)})
    writer.write_surrogate({"length_scales": np.arange(9, dtype=np.float32)})
    writer.close()
    with h5py.File(path) as file:
        history = file["surrogate/history"][...]
        assert np.isnan(history[[0, 2]]).all()
        assert history[1].tolist() == list(range(len(HISTORY_COLUMNS)))
        assert file["surrogate/length_scales"][...].tolist() == list(range(9))


def test_a_failed_rewrite_leaves_the_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / FILE_NAME
    writer = make(path)
    writer.write(Phase.LHS, some_rows(list(range(50))))
    writer.close()
    before = path.read_bytes()
    monkeypatch.setattr(h5py.Group, "create_dataset", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        finalize(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [FILE_NAME]
