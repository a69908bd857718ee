"""A campaign's HDF5 file as numpy, pandas or xarray.

    from caligo.dataset import open_campaign

    with open_campaign("exploration_data.h5") as campaign:
        table = campaign.to_pandas()
        alive = table[table.outcome == "success"]

A file may be opened while its campaign still runs; the rows that are not there yet are left out.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self, get_args

import h5py
import numpy as np
from numpy.typing import NDArray

from caligo import statement
from caligo.calibration import Calibration, Target, calibrate
from caligo.discrepancy import Discrepancy, steepest
from caligo.errors import InvalidArgument
from caligo.phases import Phase
from caligo.results import (
    COUNT_NAMES,
    COUNTS,
    DESCRIPTIONS,
    METRIC_NAMES,
    METRICS,
    ROW_DTYPE,
    ProtocolOutcome,
    Reason,
    ResultRows,
    code_name,
)
from caligo.slices import CliffSlice
from caligo.space import COLUMNS, PARAMETERS, STRATEGY_COLUMN, Strategy
from caligo.spec import read_spec

if TYPE_CHECKING:
    import pandas
    import xarray

FORMAT: Final = "caligo-campaign/2"
"""The root attribute `format` of the files of this release."""
FORMATS: Final = (FORMAT, "caligo-campaign/1")
"""Those of the files that this module reads; release 0.1 made the last."""
GROUPS: Final[Mapping[Phase, str]] = MappingProxyType({Phase.LHS: "lhs_warmup", Phase.ACTIVE: "active_learning"})
"""The group that holds a phase's rows."""
NOT_YET: Final = 255
"""`outcome` of a row that is still to come."""
UNITS: Final[Mapping[str, str]] = MappingProxyType(
    {**{p.symbol: p.unit for p in PARAMETERS}, **dict(METRICS), **dict(COUNTS)}
)
"""Unit of each column of `CampaignDataset.columns` that has one."""
_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"inputs": COLUMNS, "metrics": METRIC_NAMES, "counts": COUNT_NAMES}
)
"""Columns of the datasets that have several."""
LONG_NAMES: Final[Mapping[str, str]] = MappingProxyType({**{p.symbol: p.title for p in PARAMETERS}, **DESCRIPTIONS})
"""What the symbols of the parameters, the metrics and the counts stand for."""


@dataclasses.dataclass(frozen=True)
class GuardrailFindings:
    """What is known of the guardrail's errors.

    Attributes:
        threshold: probability of failure that the evidence is for.
        false_skip_bound: 95 % bound on the share of the rows above it that would have given a key.
        evidence: runs above the threshold that nobody had seen before: of the table that ships, where it is used, and
            simulated rows.
        false_skips: of these, runs with a key.
        audits: of the evidence, the campaign's own rows that would have been skipped and that an audit had simulated.
        false_audits: of these, rows with a key.
    """

    threshold: float
    false_skip_bound: float
    evidence: int
    false_skips: int
    audits: int
    false_audits: int


@dataclasses.dataclass(frozen=True)
class SurrogateFindings:
    """What the surrogate has learned; whatever is not known yet is None.

    Attributes:
        length_scales: float32 [9], fraction of each column's range in model coordinates; small means relevant.
        noise: noise standard deviation, units of the target.
        secure_fraction: share of the space that is secure, and the half width of its 95 % interval.
        history: float32 [h, 8], a line a fit, `HISTORY_COLUMNS`: the errors are those on the held-out rows, and the
            last two those of the closed form alone on the same rows, NaN where the surrogate did not start from it.
        cliff: a slice in the two most relevant dimensions.
        calibration: how what it foretold of the rows of the active phase fared.
        guardrail: how far the guardrail can be trusted.
        relevance: Sobol indices of the target, float32 [9, 4], a row a column of the inputs, `RELEVANCE_COLUMNS`; None
            in files of earlier releases too, as are the next two.
        discrepancy: where the simulator differs from the closed form; None where the surrogate did not start from it.
        profiles: the difference along each parameter, float32 [9, 17, 3], `PROFILE_COLUMNS`.
    """

    length_scales: NDArray[np.float32] | None
    noise: float | None
    secure_fraction: tuple[float, float] | None
    history: NDArray[np.float32]
    cliff: CliffSlice | None
    calibration: Calibration | None
    guardrail: GuardrailFindings | None
    relevance: NDArray[np.float32] | None
    discrepancy: Discrepancy | None
    profiles: NDArray[np.float32] | None


DISCREPANCY_COLUMNS: Final = ("p_value", "bound", "difference", "deviation")
GUARDRAIL_COLUMNS: Final = ("threshold", "false_skip_bound")
GUARDRAIL_ROWS: Final = ("evidence", "false_skips", "audits", "false_audits")
HISTORY_COLUMNS: Final = (
    "rows", "rmse", "f1", "brier", "coverage90", "secure_fraction", "closed_form_rmse", "closed_form_brier",
)  # fmt: skip
"""New ones are added at the end."""


def open_campaign(path: str | Path) -> CampaignDataset:
    """Open a campaign's file for reading.

    Raises:
        InvalidArgument: the file cannot be opened, or is not one of a campaign.
    """
    return CampaignDataset(Path(path))


class CampaignDataset:
    """An open campaign file. A context manager; leaving it closes the file.

    Attributes:
        path: the file.
        campaign: resource name of the campaign.
        spec: what decided its rows; of a file of another release as far as it is known here (`read_spec`).
        versions: the software that made it, package to version.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.open("rb").close()  # says what h5py does not tell apart
            self._file = h5py.File(path, "r")
        except OSError as error:
            if error.errno:
                raise InvalidArgument(str(path), os.strerror(error.errno)) from None
            kind = "is a damaged HDF5 file" if h5py.is_hdf5(path) else "is not an HDF5 file"
            raise InvalidArgument(str(path), kind) from None
        try:
            attributes = self._file.attrs
            if attributes.get("format") not in FORMATS:
                raise InvalidArgument(str(path), f"must have the root attribute format={' or '.join(FORMATS)}")
            missing = [name for name in (*GROUPS.values(), "surrogate") if name not in self._file]
            if missing:
                raise InvalidArgument(str(path), f"has no group {missing[0]}")
            self.path = path
            self.campaign = str(attributes["campaign"])
            self.spec = read_spec(json.loads(attributes["spec"]))
            self.versions: dict[str, str] = json.loads(attributes["versions"])
        except (AttributeError, KeyError, ValueError) as error:
            self._file.close()
            raise InvalidArgument(str(path), f"has damaged attributes: {error}") from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; `with` does so by itself."""
        self._file.close()

    @property
    def about(self) -> dict[str, Any]:
        """What goes with every copy of the rows: `campaign`, the statement on security, `spec` and `versions`."""
        return {
            "campaign": self.campaign,
            **statement.attributes(self.spec),
            "spec": self.spec.model_dump(mode="json"),
            "versions": self.versions,
        }

    def rows(self, phase: Phase | None = None) -> ResultRows:
        """Rows that are there, a structured array [n] of `ROW_DTYPE`, inputs in model coordinates.

        Columns go by their names in the file: of those that it has not, metrics are NaN and counts 0; those that are
        not known here are left out.

        Args:
            phase: one phase, or the Latin hypercube followed by the active phase.
        """
        if phase is None:
            return np.concatenate([self.rows(p) for p in GROUPS])
        group = self._file[GROUPS[phase]]
        there = group["outcome"][:] != NOT_YET
        rows = np.empty(np.count_nonzero(there), dtype=ROW_DTYPE)
        for name in ROW_DTYPE.names or ():
            rows[name] = _known_columns(group[name], name)[there]
        return rows

    def outcomes(self, phase: Phase) -> dict[str, int]:
        """How many rows of a phase have come to each outcome, by its name."""
        counts = np.bincount(self._file[GROUPS[phase]]["outcome"][:], minlength=NOT_YET + 1)
        return {
            code_name(ProtocolOutcome, code): int(counts[code]) for code in np.flatnonzero(counts[:NOT_YET]).tolist()
        }

    def room(self, phase: Phase) -> int:
        """Rows of a phase that the file has room for; in one that is finished as many as are there."""
        return len(self._file[GROUPS[phase]]["outcome"])

    def columns(self, phase: Phase | None = None) -> dict[str, NDArray[Any]]:
        """The rows that are there as a column each, [n]: `phase` ("lhs" or "active"), then those of `row_columns`."""
        phases = GROUPS if phase is None else (phase,)
        parts = [self.rows(p) for p in phases]
        names = np.repeat([p.name.lower() for p in phases], [len(part) for part in parts])
        return {"phase": names, **row_columns(np.concatenate(parts))}

    def to_pandas(self, phase: Phase | None = None) -> pandas.DataFrame:
        """`columns` as a table; `phase`, `strategy`, `outcome` and `reason` are categories; `attrs["units"]` has units.

        Raises:
            InvalidArgument: pandas is not installed.
        """
        frame = import_library("pandas").DataFrame(self.columns(phase))
        frame.attrs = {**self.about, "units": dict(UNITS)}
        return frame.astype(dict.fromkeys(("phase", "strategy", "outcome", "reason"), "category"))

    def to_xarray(self, phase: Phase | None = None) -> xarray.Dataset:
        """`columns` along the dimension `row`, each variable with its `units` and `long_name` if it has them.

        Raises:
            InvalidArgument: xarray is not installed.
        """
        described = {"units": UNITS, "long_name": LONG_NAMES}
        variables = {
            name: ("row", values, {key: texts[name] for key, texts in described.items() if name in texts})
            for name, values in self.columns(phase).items()
        }
        return import_library("xarray").Dataset(variables, attrs={key: as_text(v) for key, v in self.about.items()})

    @property
    def surrogate(self) -> SurrogateFindings:
        """What the surrogate has learned so far."""
        group = self._file["surrogate"]
        history = group["history"][:]
        missing = len(HISTORY_COLUMNS) - history.shape[1]  # in a file of an earlier release
        history = np.pad(history, ((0, 0), (0, missing)), constant_values=np.nan)
        scales, secure = _known(group["length_scales"][:]), _known(group["secure_fraction"][:])
        noise, margin = _known(group["noise"][:]), group["cliff_margin"][:]
        is_cut = bool(np.isfinite(margin).all(axis=(1, 2, 3)).any())  # for a strategy that the space has
        return SurrogateFindings(
            length_scales=scales,
            noise=None if noise is None else float(noise[0]),
            secure_fraction=None if secure is None else (float(secure[0]), float(secure[1])),
            history=history[~np.isnan(history[:, 0])],
            cliff=None
            if not is_cut
            else CliffSlice(
                axes=(int(group["cliff_axes"][0]), int(group["cliff_axes"][1])),
                x=group["cliff_x"][:],
                y=group["cliff_y"][:],
                at=group["cliff_at"][:],
                mean=margin[..., 0],
                deviation=margin[..., 1],
            ),
            calibration=self._calibration(),
            guardrail=self._guardrail(),
            relevance=_known(group["relevance"][:]) if "relevance" in group else None,
            **self._discrepancy(),
        )

    def _calibration(self) -> Calibration | None:
        rows = self.rows(Phase.ACTIVE)
        forecast = self._file["surrogate"].get("forecast")  # not in files of release 0.1
        target = self.spec.surrogate.target
        if forecast is None or target not in get_args(Target):
            return None
        return calibrate(rows, forecast[:][rows["index"]], target)

    def _discrepancy(self) -> dict[str, Any]:
        """The fields `discrepancy` and `profiles`."""
        group = self._file["surrogate"]
        if "discrepancy" not in group or np.isnan(group["discrepancy_along"][:, 0, 0]).all():
            return {"discrepancy": None, "profiles": None}
        profiles = group["discrepancy_along"][:]
        found = Discrepancy(
            rows=int(group["discrepancy_rows"][0]),
            point=group["discrepancy_point"][:].tolist(),
            parameter=steepest(profiles),
            **dict(zip(DISCREPANCY_COLUMNS, map(float, group["discrepancy"][:]), strict=True)),
        )
        return {"discrepancy": found, "profiles": profiles}

    def _guardrail(self) -> GuardrailFindings | None:
        group = self._file["surrogate"]
        if "guardrail" not in group or (rates := _known(group["guardrail"][:])) is None:
            return None
        threshold, bound = map(float, rates)
        return GuardrailFindings(threshold, bound, *map(int, group["guardrail_rows"][:]))


def row_columns(rows: ResultRows) -> dict[str, NDArray[Any]]:
    """Result rows [n] as a column each, [n], the parameters in physical units by symbol.

    `index` (int64), r, nu, dt_ns, F, eta, e_det, P_dark, N (float32), `strategy`, `outcome` and `reason` (names in
    lower case), the metrics (float32) and the counts (int64).
    """
    inputs = rows["inputs"]
    return {
        "index": rows["index"],
        **{
            p.symbol: np.power(np.float32(10), inputs[:, j]) if p.is_log else inputs[:, j]
            for j, p in enumerate(PARAMETERS)
        },
        "strategy": _names(Strategy, inputs[:, STRATEGY_COLUMN].round().astype(np.uint8)),
        "outcome": _names(ProtocolOutcome, rows["outcome"]),
        "reason": _names(Reason, rows["reason"]),
        **{name: rows["metrics"][:, j] for j, name in enumerate(METRIC_NAMES)},
        **{name: rows["counts"][:, j] for j, name in enumerate(COUNT_NAMES)},
    }


def _known_columns(dataset: h5py.Dataset, name: str) -> NDArray[Any]:
    """A dataset's rows with the columns that are known here in their order, [n, ...] as `ROW_DTYPE` has it."""
    values, columns = dataset[:], dataset.attrs.get("columns")
    if name not in _COLUMNS or columns is None:
        return values
    there = [column.decode() if isinstance(column, bytes) else str(column) for column in columns]
    found = np.full((len(values), len(_COLUMNS[name])), np.nan if values.dtype.kind == "f" else 0, dtype=values.dtype)
    for j, column in enumerate(_COLUMNS[name]):
        if column in there:
            found[:, j] = values[:, there.index(column)]
    return found


def _known(values: NDArray[np.float32]) -> NDArray[np.float32] | None:
    return None if np.isnan(values).any() else values


def _names(codes: type[Strategy | ProtocolOutcome | Reason], values: NDArray[np.uint8]) -> NDArray[np.str_]:
    return np.array([code_name(codes, code) for code in range(256)])[values]


def as_text(value: Any) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def import_library(module: str) -> Any:
    """A library of the optional extra `export`.

    Raises:
        InvalidArgument: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        library = module.partition(".")[0]
        raise InvalidArgument(
            library, f"must be installed for this: pip install {library}, or caligo[export]"
        ) from None
