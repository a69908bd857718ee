"""Rows and points between the wire and a person: physical units, names for codes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caligo.cli.output import print_json, shortest
from caligo.dataset import row_columns
from caligo.errors import InvalidArgument
from caligo.results import ResultRows
from caligo.seeds import Phase
from caligo.space import LOG_COLUMNS, PARAMETERS, STRATEGY_COLUMN, SYMBOLS, Space, Strategy


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


def point_to_plain(row: NDArray[np.float32]) -> dict[str, Any]:
    """A design row, float32 [1, 9], in physical units by symbol."""
    values = row[0].astype(np.float64)
    values[list(LOG_COLUMNS)] = 10.0 ** values[list(LOG_COLUMNS)]
    plain: dict[str, Any] = {p.symbol: float(f"{value:.6g}") for p, value in zip(PARAMETERS, values, strict=False)}
    return {**plain, "strategy": Strategy(round(values[STRATEGY_COLUMN])).name.lower()}
