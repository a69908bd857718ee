"""Files of release 0.1, finished and unfinished, open and go into every other format."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import h5py
import numpy as np
import pytest

from caligo.dataset import GROUPS, open_campaign
from caligo.errors import InvalidArgument
from caligo.exports import SUFFIXES, export
from caligo.layout import CAMPAIGNS_DIRECTORY, FILE_NAME
from caligo.phases import Phase
from caligo.results import COUNT, METRIC_NAMES

ROWS = {
    "lupo": (20, 8), "erven": (135, 8), "kww": (29, 2), "paused-active": (20, 4), "paused-lhs": (44, 0),
    "running": (45, 0),
}  # fmt: skip
BOUNDS = {"erven": "erven2014", "kww": "kww2012"}


def file_of(directory: Path, id: str) -> Path:
    return directory / CAMPAIGNS_DIRECTORY / id / FILE_NAME


@pytest.mark.parametrize("id", ROWS)
def test_every_file_opens_and_says_under_which_rules_it_was_made(assets: Path, id: str) -> None:
    path = file_of(assets / "data", id)
    with open_campaign(path) as dataset, h5py.File(path) as file:
        assert dataset.spec.physics.claim == f"release-0.1/{BOUNDS.get(id, 'lupo2023')}"
        assert dataset.spec.rules.startswith(
            f"made under the rules of release 0.1 (bound {BOUNDS.get(id, 'lupo2023')})"
        )
        assert dataset.versions["caligo"] == "0.1.0"
        assert tuple(len(dataset.rows(phase)) for phase in GROUPS) == ROWS[id]
        for phase, group in GROUPS.items():
            there, rows = file[group]["outcome"][:] != 255, dataset.rows(phase)
            for name in ("inputs", "metrics", "outcome", "reason", "index"):
                assert rows[name].tobytes() == file[group][name][:][there].tobytes()
            assert np.array_equal(rows["counts"][:, :9], file[group]["counts"][:][there])
            assert not rows["counts"][:, 9:].any()
            assert sum(dataset.outcomes(phase).values()) == len(rows)
        assert len(dataset.surrogate.history) == {"lupo": 3, "erven": 3, "kww": 1, "paused-active": 1}.get(id, 0)


@pytest.mark.parametrize("format", SUFFIXES)
def test_every_format_says_the_rules_with_the_rows(assets: Path, tmp_path: Path, format: str) -> None:
    path = tmp_path / f"rows{SUFFIXES[format]}"
    with open_campaign(file_of(assets / "data", "kww")) as dataset:
        assert export(dataset, path, format) == sum(ROWS["kww"])
    match format:
        case "csv":
            said = path.read_text()
        case "parquet":
            parquet = pytest.importorskip("pyarrow.parquet")
            said = parquet.read_schema(path).metadata[b"rules"].decode()
        case _:
            with pytest.importorskip("xarray").open_dataset(path, engine="h5netcdf") as rows:
                said = rows.attrs["rules"]
    assert "made under the rules of release 0.1 (bound kww2012)" in said


@pytest.fixture
def another_release(assets: Path, tmp_path: Path) -> Path:
    """A file as a later release of the same format might write it: columns moved, one gone, one new; new codes."""
    path = Path(shutil.copy(file_of(assets / "data", "lupo"), tmp_path / "later.h5"))
    with h5py.File(path, "r+") as file:
        spec = json.loads(file.attrs["spec"])
        spec["physics"] = {"claim": "composable2031", "epsilon": 1e-10, "memory": {"kind": "thermal"}}
        spec["surrogate"]["target"] = "finite"
        file.attrs["spec"], file.attrs["format"] = json.dumps(spec), "caligo-campaign/2"
        for group in GROUPS.values():
            counts = file[group]["counts"][:]
            columns = list(file[group]["counts"].attrs["columns"])
            del file[group]["counts"]
            moved = np.concatenate([np.full((len(counts), 1), 7), counts[:, ::-1][:, :-1]], axis=1)
            file[group]["counts"] = moved
            file[group]["counts"].attrs["columns"] = ["double_clicks", *columns[::-1][:-1]]
            file[group]["outcome"][0], file[group]["reason"][0] = 77, 99
    return path


def test_columns_go_by_name_and_codes_of_another_release_are_kept(assets: Path, another_release: Path) -> None:
    with open_campaign(file_of(assets / "data", "lupo")) as old, open_campaign(another_release) as later:
        was, now = old.rows(), later.rows()
        for name in ("detected", "leaked", "frames_failed"):
            assert np.array_equal(now["counts"][:, COUNT[name]], was["counts"][:, COUNT[name]])
        assert not now["counts"][:, COUNT["pairs"]].any()
        columns = later.columns(Phase.LHS)
        assert (columns["outcome"][0], columns["reason"][0]) == ("code_77", "code_99")
        assert later.outcomes(Phase.LHS)["code_77"] == 1
        assert later.spec.rules == "made under the claim 'composable2031', which this release does not know"
        assert later.surrogate.calibration is None
        assert set(METRIC_NAMES) < set(columns)


def test_a_format_that_is_not_known_is_refused_by_name(another_release: Path) -> None:
    with h5py.File(another_release, "r+") as file:
        file.attrs["format"] = "caligo-campaign/9"
    with pytest.raises(InvalidArgument, match="caligo-campaign/2 or caligo-campaign/1"):
        open_campaign(another_release)


def test_files_and_journal_agree(assets: Path) -> None:
    """What is told here of the files is told elsewhere of the journal."""
    with sqlite3.connect(f"file:{assets}/data/journal.sqlite3?mode=ro&immutable=1", uri=True) as journal:
        found = journal.execute("SELECT campaign, phase, COUNT(*) FROM result_rows GROUP BY campaign, phase").fetchall()
    journal.close()
    counted = {id: [0, 0] for id in ROWS}
    for id, phase, rows in found:
        counted[id][phase == Phase.ACTIVE] = rows
    assert {id: tuple(rows) for id, rows in counted.items()} == ROWS
