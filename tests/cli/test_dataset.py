"""`caligo dataset`: what is in a file, and the same rows in other formats."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas
import pyarrow.parquet
import pytest
import xarray
import yaml

from caligo.cli import main
from caligo.dataset import open_campaign
from caligo.results import COUNTS, METRICS, ProtocolOutcome
from caligo.space import PARAMETERS

UNITS = {**{p.symbol: p.unit for p in PARAMETERS}, **dict(METRICS), **dict(COUNTS)}
NAMES = ("phase", "strategy", "outcome", "reason")

Caligo = Callable[..., tuple[int, str, str]]


@pytest.fixture
def caligo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Caligo:
    """Runs a command: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["caligo", *map(str, arguments)])
        code = main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def original(campaign_file: Path) -> dict[str, np.ndarray]:
    """The columns, straight from the datasets of the HDF5 file."""
    columns: dict[str, list[np.ndarray]] = {}
    with h5py.File(campaign_file) as file:
        for phase, group in (("lhs", file["lhs_warmup"]), ("active", file["active_learning"])):
            there = group["outcome"][:] != 255
            for dataset, columns_of in (("metrics", METRICS), ("counts", COUNTS)):
                for j, (name, _) in enumerate(columns_of):
                    columns.setdefault(name, []).append(group[dataset][:, j][there])
            inputs = group["inputs"][:][there]
            for j, p in enumerate(PARAMETERS):
                values = np.power(np.float32(10), inputs[:, j]) if p.is_log else inputs[:, j]
                columns.setdefault(p.symbol, []).append(values)
            outcomes = [ProtocolOutcome(code).name.lower() for code in group["outcome"][:][there]]
            columns.setdefault("outcome", []).append(np.array(outcomes))
            columns.setdefault("strategy", []).append(np.array(["baseline", "blind"])[inputs[:, 8].astype(int)])
            columns.setdefault("phase", []).append(np.full(there.sum(), phase))
            columns.setdefault("index", []).append(group["index"][:][there])
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def check(found: dict[str, np.ndarray], original: dict[str, np.ndarray]) -> None:
    """Every value, bit for bit, and every dtype."""
    assert set(found) == {*original, "reason"}
    for name, expected in original.items():
        if name in NAMES:
            assert found[name].tolist() == expected.tolist(), name
        else:
            assert found[name].dtype == expected.dtype, name
            np.testing.assert_array_equal(found[name], expected, err_msg=name)
    assert set(found["reason"][found["outcome"] == "success"]) == {"none"}


def test_csv(caligo: Caligo, campaign_file: Path, tmp_path: Path, original: dict[str, np.ndarray]) -> None:
    path = tmp_path / "rows.csv"
    assert caligo("dataset", "export", campaign_file, "--output", path) == (0, f"{path}\n", "")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# %ECSV 1.0"
    header = yaml.safe_load("\n".join(line.removeprefix("# ") for line in lines[1:] if line.startswith("#")))
    table = lines[[line.startswith("#") for line in lines].index(False)]
    assert header["delimiter"] == "," and [column["name"] for column in header["datatype"]] == table.split(",")
    assert {column["name"]: column["unit"] for column in header["datatype"] if "unit" in column} == UNITS
    assert header["meta"]["campaign"] == "campaigns/0f3a9c" and header["meta"]["spec"]["name"] == "synthetic"
    types = {column["name"]: column["datatype"] for column in header["datatype"]}
    frame = pandas.read_csv(
        path,
        comment="#",
        dtype={n: t for n, t in types.items() if t != "string"},
        keep_default_na=False,
        na_values=[""],
    )
    check({name: frame[name].to_numpy() for name in frame}, original)


def test_parquet(caligo: Caligo, campaign_file: Path, tmp_path: Path, original: dict[str, np.ndarray]) -> None:
    path = tmp_path / "rows.parquet"
    answer = json.loads(caligo("dataset", "export", campaign_file, "--output", path, "--json")[1])
    assert answer == {"path": str(path), "format": "parquet", "rows": 390, "bytes": path.stat().st_size}
    table = pyarrow.parquet.read_table(path)
    units = {
        field.name: field.metadata[b"units"].decode() for field in table.schema if b"units" in (field.metadata or {})
    }
    assert units == UNITS
    assert table.schema.field("F").metadata[b"long_name"] == b"pair fidelity"
    assert json.loads(table.schema.metadata[b"spec"])["name"] == "synthetic"
    check(
        {name: np.asarray(table[name].to_pylist() if name in NAMES else table[name]) for name in table.column_names},
        original,
    )
    assert str(pandas.read_parquet(path).outcome.dtype) == "category"


def test_netcdf(caligo: Caligo, campaign_file: Path, tmp_path: Path, original: dict[str, np.ndarray]) -> None:
    path = tmp_path / "rows.nc"
    assert caligo("dataset", "export", campaign_file, "-o", path)[0] == 0
    with xarray.open_dataset(path, engine="h5netcdf") as dataset:
        assert {name: v.attrs["units"] for name, v in dataset.variables.items() if "units" in v.attrs} == UNITS
        assert dataset["dt_ns"].attrs["long_name"] == "wait time"
        assert dataset.attrs["campaign"] == "campaigns/0f3a9c"
        assert json.loads(dataset.attrs["versions"])["caligo"]
        check({str(name): v.to_numpy() for name, v in dataset.data_vars.items()}, original)


@pytest.mark.parametrize("format", ["csv", "parquet", "netcdf"])
def test_one_phase_and_no_rows_at_all(
    caligo: Caligo, campaign_file: Path, write_campaign: Callable[..., Path], tmp_path: Path, format: str
) -> None:
    out = tmp_path / "out"
    command = ("dataset", "export", campaign_file, "--format", format, "--output", out, "--phase", "active", "--json")
    assert json.loads(caligo(*command)[1])["rows"] == 90
    young = write_campaign(tmp_path / "young.h5", lhs=4, active=4, missing=4, fitted=False)
    with h5py.File(young, "r+") as file:
        file["lhs_warmup/outcome"][:] = 255
    assert json.loads(caligo(*command[:2], young, *command[3:], "--force")[1])["rows"] == 0


def test_an_export_appears_whole_or_not_at_all(
    caligo: Caligo, campaign_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("mine")
    code, out, err = caligo("dataset", "export", campaign_file, "-o", path)
    assert (code, out, err) == (4, "", f"caligo: {path}: is there already and is not overwritten\n")
    frame = pandas.DataFrame.to_csv

    def fail(self: Any, file: io.TextIOBase, **options: Any) -> None:
        frame(self.head(3), file, **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pandas.DataFrame, "to_csv", fail)
    code, _, err = caligo("dataset", "export", campaign_file, "-o", path, "--force")
    assert (code, err) == (2, f"caligo: {path}: No space left on device\n")
    assert path.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize(
    ("format", "library"), [("csv", "pandas"), ("parquet", "pyarrow"), ("netcdf", "h5netcdf"), ("netcdf", "xarray")]
)
def test_a_missing_library_is_named(
    caligo: Caligo, campaign_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    code, _, err = caligo("dataset", "export", campaign_file, "--format", format, "-o", tmp_path / "out")
    assert code == 2
    assert f"caligo: {library}: must be installed for this: pip install {library}, or caligo[export]" in err
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_one_line(caligo: Caligo, campaign_file: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (("--format", "xlsx"), "--format: must be one of csv, parquet, netcdf, not 'xlsx'"),
        (("--output", tmp_path / "rows.txt"), "--format: must be one of csv, parquet, netcdf"),
        ((), "--format: must be one of csv, parquet, netcdf"),
        (("--format", "csv", "--output", tmp_path / "no" / "rows.csv"), "No such file or directory"),
        (("--format", "csv", "--phase", "training"), "--phase: must be lhs or active"),
    ):
        code, out, err = caligo("dataset", "export", campaign_file, *arguments)
        assert (code, out) == (2, "")
        assert words in err and err.count("\n") == 1
    assert caligo("dataset", "info", tmp_path / "none.h5")[0] == 2


def test_info(caligo: Caligo, campaign_file: Path, write_campaign: Callable[..., Path], tmp_path: Path) -> None:
    found = json.loads(caligo("dataset", "info", campaign_file, "--json")[1])
    assert (found["campaign"], found["spec"]["name"]) == ("campaigns/0f3a9c", "synthetic")
    lhs, active = found["phases"]["lhs"], found["phases"]["active"]
    assert (lhs["rows"], lhs["room"], active["rows"], active["room"]) == (300, 300, 90, 96)
    with open_campaign(campaign_file) as campaign:
        outcome = campaign.columns()["outcome"]
    assert lhs["outcomes"]["success"] + active["outcomes"]["success"] == (outcome == "success").sum()
    assert found["surrogate"]["fits"] == 13
    assert found["versions"]["caligo"] == "0.1.0"
    text = caligo("dataset", "info", campaign_file)[1]
    assert "90 of 96 rows" in text and "13 fits" in text and "caligo 0.1.0" in text
    young = write_campaign(tmp_path / "young.h5", lhs=4, active=1, fitted=False)
    assert "not fitted yet" in caligo("dataset", "info", young)[1]


def test_a_file_that_is_being_written_is_read(campaign_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "live.h5"
    path.write_bytes(campaign_file.read_bytes())
    with h5py.File(path, "r+", locking=False) as live:  # as the orchestrator holds it
        live["active_learning/outcome"][90] = 1
        live.flush()
        command = [sys.executable, "-c", "import sys; from caligo.cli import main; sys.exit(main())"]
        command += ["dataset", "export", str(path), "--format", "csv", "--json"]
        answer = subprocess.run(
            command, check=True, capture_output=True, timeout=60
        )  # HDF5 opens a file once a process
    assert json.loads(answer.stdout)["rows"] == 391
