"""Rows and points between the wire and a person: physical units, names for codes."""

from __future__ import annotations

import csv
import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from caligo.cli.output import print_json, shortest
from caligo.dataset import row_columns
from caligo.errors import InvalidArgument
from caligo.results import ResultRows
from caligo.seeds import Phase
from caligo.slices import CliffSlice
from caligo.space import DIMENSIONS, LOG_COLUMNS, PARAMETERS, STRATEGY_COLUMN, SYMBOLS, Space, Strategy


def parse_phase(text: str) -> Phase:
    """The phase that `--phase` names.

    Raises:
        InvalidArgument: it is neither lhs nor active.
    """
    phases = {"lhs": Phase.LHS, "active": Phase.ACTIVE}
    if text not in phases:
        raise InvalidArgument("--phase", f"must be lhs or active, not {text!r}")
    return phases[text]


def print_rows(batches: Iterable[tuple[Phase, ResultRows]], *, json: bool) -> None:
    """A line a row: JSON objects, or tab-separated under a heading."""
    heading_due = not json
    for phase, rows in batches:
        columns = {"phase": np.full(len(rows), phase.name.lower()), **row_columns(rows)}
        if heading_due:
            print("\t".join(columns))
            heading_due = False
        for values in zip(*columns.values(), strict=True):
            plain = [_plain(value) for value in values]
            if json:
                print_json(dict(zip(columns, plain, strict=True)))
            else:
                print("\t".join(str(value) for value in plain))
        sys.stdout.flush()


def _plain(value: Any) -> Any:
    return shortest(value) if isinstance(value, np.float32) else value.item()


def parse_point(assignments: Iterable[str], space: Space) -> NDArray[np.float32]:
    """`symbol=value` each, physical units, as a design row, float32 [1, 9]; the rest from the middle of `space`.

    Raises:
        InvalidArgument: no such parameter, not a number, or outside what the parameter allows.
    """
    row = space.model_bounds().mean(axis=0)
    row[STRATEGY_COLUMN] = Strategy.BASELINE
    for assignment in assignments:
        symbol, _, text = assignment.partition("=")
        if symbol == "strategy":
            if text.upper() not in Strategy.__members__:
                raise InvalidArgument(symbol, f"must be baseline or blind, not {text!r}")
            row[STRATEGY_COLUMN] = Strategy[text.upper()]
            continue
        if symbol not in SYMBOLS:
            raise InvalidArgument(symbol, f"no such parameter; there are {', '.join(SYMBOLS)}, strategy")
        column = SYMBOLS.index(symbol)
        parameter = PARAMETERS[column]
        try:
            value = float(text)
        except ValueError:
            raise InvalidArgument(symbol, f"must be a number, not {text!r}") from None
        if not parameter.lowest <= value <= parameter.highest:
            raise InvalidArgument(symbol, f"must lie in [{parameter.lowest:g}, {parameter.highest:g}]")
        row[column] = np.log10(value) if parameter.is_log else value
    return row.astype(np.float32)[None, :]


def read_points(file: TextIO, name: str, space: Space) -> NDArray[np.float32]:
    """The points of a table as design rows, float32 [n, 9].

    A heading and a line a point, separated by commas or tabs, physical units. Of the columns those named after a
    parameter or `strategy` count, the rest, as of `caligo results`, is passed over; a parameter without a column
    takes the middle of `space`.

    Args:
        name: of the file, for errors.

    Raises:
        InvalidArgument: no column that counts, or a value that `parse_point` does not take.
    """
    heading = file.readline()
    lines = csv.DictReader(itertools.chain([heading], file), delimiter="\t" if "\t" in heading else ",")
    known = [column for column in lines.fieldnames or () if column in (*SYMBOLS, "strategy")]
    if not known:
        raise InvalidArgument(name, f"must have a heading with some of {', '.join(SYMBOLS)}, strategy")
    rows = [np.empty((0, DIMENSIONS), dtype=np.float32)]
    for line in lines:
        try:
            rows.append(parse_point([f"{column}={line[column] or ''}" for column in known], space))
        except InvalidArgument as error:
            raise InvalidArgument(f"{name}: line {lines.line_num}", str(error)) from None
    return np.concatenate(rows)


def print_predictions(rows: NDArray[np.float32], predicted: NDArray[np.float32], *, json: bool) -> None:
    """A line a point, float32 [n, 9] and [n, 3]: JSON objects, or tab-separated under a heading."""
    lines = (
        {**point_to_plain(row[None, :]), **prediction_to_plain(answer)}
        for row, answer in zip(rows, predicted, strict=True)
    )
    print_lines(lines, json=json)


def print_slice(piece: CliffSlice, *, json: bool) -> None:
    """A line a point of the grid: its place, mean and standard deviation of the target, by strategy."""
    print_lines(_slice_lines(piece), json=json)


def _slice_lines(piece: CliffSlice) -> Iterator[dict[str, Any]]:
    for strategy in Strategy:
        for i in range(len(piece.y)):
            for j in range(len(piece.x)):
                mean, deviation = piece.mean[strategy, i, j], piece.deviation[strategy, i, j]
                if np.isfinite(mean):
                    row = piece.at.copy()
                    row[list(piece.axes)], row[STRATEGY_COLUMN] = (piece.x[j], piece.y[i]), strategy
                    moments = {"mean": shortest(mean), "standard_deviation": shortest(deviation)}
                    yield {**point_to_plain(row[None, :]), **moments}


def print_lines(lines: Iterable[dict[str, Any]], *, json: bool) -> None:
    """JSON objects, or tab-separated under a heading."""
    for number, line in enumerate(lines):
        if json:
            print_json(line)
        else:
            if not number:
                print("\t".join(line))
            print("\t".join(str(value) for value in line.values()))
    sys.stdout.flush()


def prediction_to_plain(answer: NDArray[np.float32]) -> dict[str, float]:
    """What the surrogate says of one point, float32 [3], by name."""
    names = ("mean", "standard_deviation", "probability_of_key")
    return {name: shortest(value) for name, value in zip(names, answer, strict=True)}


def point_to_plain(row: NDArray[np.float32]) -> dict[str, Any]:
    """A design row, float32 [1, 9], in physical units by symbol."""
    values = row[0].astype(np.float64)
    values[list(LOG_COLUMNS)] = 10.0 ** values[list(LOG_COLUMNS)]
    plain: dict[str, Any] = {p.symbol: float(f"{value:.6g}") for p, value in zip(PARAMETERS, values, strict=False)}
    return {**plain, "strategy": Strategy(round(values[STRATEGY_COLUMN])).name.lower()}
