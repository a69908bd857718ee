"""A campaign's rows as CSV, Parquet or NetCDF, with the unit of every column.

One row a sample, the columns of `CampaignDataset.columns`: parameters in physical units, outcomes by name, floats
float32, counts int64. `caligo[export]` brings the libraries.

- CSV is ECSV 1.0 (https://github.com/astropy/astropy-APEs/blob/main/APE6.rst): plain CSV after a header of `#` lines
  that name each column's type and unit. `pandas.read_csv(path, comment="#")`; `astropy.table.Table.read` has the units.
- Parquet has them as `units` in the metadata of each field of its schema.
- NetCDF (version 4) has them as the attribute `units` of each variable, all along the dimension `row`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from caligo.dataset import LONG_NAMES, UNITS, CampaignDataset, as_text, import_library
from caligo.errors import AlreadyExists, InvalidArgument
from caligo.phases import Phase

SUFFIXES: Final[Mapping[str, str]] = {"csv": ".csv", "parquet": ".parquet", "netcdf": ".nc"}
"""The formats, and the suffix of a file of each."""


def export(
    dataset: CampaignDataset,
    path: Path,
    format: str,
    *,
    phase: Phase | None = None,
    overwrite: bool = False,
) -> int:
    """Write the rows that are there to `path`, which appears whole or not at all. Returns their number.

    Args:
        format: one of `SUFFIXES`.
        phase: one phase, or the Latin hypercube followed by the active phase.

    Raises:
        InvalidArgument: no such format, a library is not installed, or `path` cannot be written.
        AlreadyExists: there is something at `path`, and `overwrite` is not set.
    """
    if format not in _WRITERS:
        raise InvalidArgument("format", f"must be one of {', '.join(SUFFIXES)}, not {format!r}")
    if path.exists() and not overwrite:
        raise AlreadyExists(f"{path}: is there already and is not overwritten")
    temporary = path.with_name(path.name + ".new")
    try:
        rows = _WRITERS[format](dataset, phase, temporary)
        temporary.replace(path)
    except OSError as error:
        raise InvalidArgument(str(path), error.strerror or "cannot be written") from None
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def _write_csv(dataset: CampaignDataset, phase: Phase | None, path: Path) -> int:
    frame = dataset.to_pandas(phase)
    import yaml  # version 1.1, in which ECSV is; of the same extra as pandas

    header = {
        "delimiter": ",",
        "datatype": [_ecsv_column(name, column.dtype) for name, column in frame.items()],
        "meta": dataset.about,
        "schema": "astropy-2.0",
    }
    text = io.StringIO("%ECSV 1.0\n---\n" + yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=2**16))
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"# {line}" for line in text)
        frame.to_csv(file, index=False, lineterminator="\n")
    return len(frame)


def _ecsv_column(name: str, dtype: Any) -> dict[str, str]:
    column = {"name": name, "datatype": dtype.name if isinstance(dtype, np.dtype) else "string"}
    if name in UNITS:
        column["unit"] = UNITS[name]
    if name in LONG_NAMES:
        column["description"] = LONG_NAMES[name]
    return column


def _write_parquet(dataset: CampaignDataset, phase: Phase | None, path: Path) -> int:
    pyarrow, parquet = import_library("pyarrow"), import_library("pyarrow.parquet")
    arrays, fields = [], []
    for name, values in dataset.columns(phase).items():
        array = pyarrow.array(values)
        arrays.append(array.dictionary_encode() if values.dtype.kind == "U" else array)
        described = {"units": UNITS.get(name), "long_name": LONG_NAMES.get(name)}
        metadata = {key: text for key, text in described.items() if text is not None}
        fields.append(pyarrow.field(name, arrays[-1].type, metadata=metadata))
    about = {key: as_text(value) for key, value in dataset.about.items()}
    table = pyarrow.Table.from_arrays(arrays, schema=pyarrow.schema(fields, metadata=about))
    parquet.write_table(table, path)
    return table.num_rows


def _write_netcdf(dataset: CampaignDataset, phase: Phase | None, path: Path) -> int:
    import_library("h5netcdf")
    rows = dataset.to_xarray(phase)
    packed = {name: {"zlib": True, "shuffle": True} for name, values in rows.items() if values.dtype.kind in "fi"}
    rows.to_netcdf(path, engine="h5netcdf", encoding=packed if rows.sizes["row"] else {})
    return rows.sizes["row"]


_WRITERS: Final[Mapping[str, Callable[[CampaignDataset, Phase | None, Path], int]]] = {
    "csv": _write_csv,
    "parquet": _write_parquet,
    "netcdf": _write_netcdf,
}
