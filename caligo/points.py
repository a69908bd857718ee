"""A point of the space as people give it: symbols and physical units."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from caligo.errors import InvalidArgument
from caligo.space import PARAMETERS, STRATEGY_COLUMN, SYMBOLS, Space, Strategy

NAMES: Final = (*SYMBOLS, "strategy")
"""What a point may say something about."""


def point(values: Mapping[str, float | str], space: Space, *, extrapolate: bool = False) -> NDArray[np.float32]:
    """A design row, float32 [9], model coordinates.

    Args:
        values: by symbol, physical units, numbers or their text; `strategy` is "baseline" or "blind". What is missing
            takes the middle of `space`, in model coordinates, and the first strategy that it has.
        extrapolate: take points outside the space too.

    Raises:
        InvalidArgument: no such parameter, not a number, outside what the parameter allows, or what `Space.check`
            refuses.
    """
    row = space.model_bounds().mean(axis=0)
    row[STRATEGY_COLUMN] = space.strategies[0]
    for symbol, value in values.items():
        column = _column(symbol)
        row[column] = _strategy(value) if symbol == "strategy" else _coordinate(symbol, value)
    made = row.astype(np.float32)
    space.check(made[None, :], extrapolate=extrapolate)
    return made


def parameter_column(symbol: str, field: str) -> int:
    """The column of a continuous parameter.

    Raises:
        InvalidArgument: there is none of that symbol; names `field`, and the nearest right one.
    """
    if symbol not in SYMBOLS:
        raise InvalidArgument(field, f"must be one of {', '.join(SYMBOLS)}, not {symbol!r}{_meant(symbol, SYMBOLS)}")
    return SYMBOLS.index(symbol)


def _column(symbol: str) -> int:
    if symbol not in NAMES:
        raise InvalidArgument(symbol, f"no such parameter{_meant(symbol, NAMES)}; there are {', '.join(NAMES)}")
    return NAMES.index(symbol)


def _meant(symbol: str, names: tuple[str, ...]) -> str:
    """The nearest right name, as a question, if one is near."""
    lower = {name.lower(): name for name in names}
    begun = [name for name in lower if symbol and name.startswith(symbol.lower())]
    near = begun or difflib.get_close_matches(symbol.lower(), lower, n=1)
    return f" (did you mean {lower[near[0]]}?)" if near else ""


def _strategy(value: float | str) -> Strategy:
    if str(value).upper() not in Strategy.__members__:
        raise InvalidArgument("strategy", f"must be baseline or blind, not {value!r}")
    return Strategy[str(value).upper()]


def _coordinate(symbol: str, value: float | str) -> float:
    parameter = PARAMETERS[SYMBOLS.index(symbol)]
    try:
        number = float(value)
    except ValueError:
        raise InvalidArgument(symbol, f"must be a number, not {value!r}") from None
    if not parameter.lowest <= number <= parameter.highest:  # NaN is not inside
        raise InvalidArgument(symbol, f"must lie in [{parameter.lowest:g}, {parameter.highest:g}]")
    return float(np.log10(number)) if parameter.is_log else number
