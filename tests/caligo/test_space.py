"""The parameter space: coordinates, presets, samples."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from caligo.errors import InvalidArgument
from caligo.space import (
    COLUMNS,
    DIMENSIONS,
    LOG_COLUMNS,
    PARAMETERS,
    PRESETS,
    STRATEGY_COLUMN,
    SYMBOLS,
    ExplorationSample,
    Space,
    Strategy,
    check_limits,
)

SPACES = [Space(bounds) for bounds in PRESETS.values()]


def test_columns_are_those_of_the_contract() -> None:
    assert COLUMNS == ("r", "log10_nu", "log10_dt_ns", "F", "log10_eta", "e_det", "log10_P_dark", "log10_N", "strategy")
    assert [SYMBOLS[j] for j in LOG_COLUMNS] == ["nu", "dt_ns", "eta", "P_dark", "N"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_lie_in_what_is_physical(name: str) -> None:
    assert list(PRESETS[name]) == list(SYMBOLS)
    for p in PARAMETERS:
        low, high = PRESETS[name][p.symbol]
        assert p.lowest <= low < high <= p.highest


def test_cliff_preset_is_space_d() -> None:
    low, high = Space(PRESETS["cliff"]).model_bounds()
    np.testing.assert_allclose(low, [0.5, math.log10(0.05), 7, 0.85, -2, 0, -8, 4.5, 0], atol=1e-12)
    np.testing.assert_allclose(high, [0.99, 0, 10, 1, 0, 0.05, -3, 8, 1], atol=1e-12)


@pytest.mark.parametrize("space", SPACES)
@given(unit=hnp.arrays(np.float32, (3, 9), elements=st.floats(0, 1, width=32)))
def test_unit_and_model_coordinates_round_trip(space: Space, unit: np.ndarray) -> None:
    model = space.from_unit(unit)
    low, high = (bound.astype(np.float32) for bound in space.model_bounds())
    assert model.dtype == np.float32
    assert ((model >= low) & (model <= high)).all()
    back = space.to_unit(model)
    assert back.dtype == np.float32
    # float32 keeps 2^-24 of the largest coordinate, as a share of the width
    tolerance = 2.0**-23 * (np.maximum(np.abs(low), np.abs(high)) / (high - low) + 1)
    assert (np.abs(back - unit) <= tolerance).all()


def test_a_dimension_of_zero_width_maps_to_zero() -> None:
    space = Space({**PRESETS["cliff"], "F": (0.98, 0.98)})
    model = space.from_unit(np.full((1, 9), 0.7))
    assert model[0, 3] == np.float32(0.98)
    assert abs(space.to_unit(model)[0, 3]) < 1e-6


@pytest.mark.parametrize("space", SPACES)
@given(unit=hnp.arrays(np.float32, 9, elements=st.floats(0, 1, width=32)))
def test_every_row_of_a_space_inflates(space: Space, unit: np.ndarray) -> None:
    row = space.from_unit(unit[None, :])[0]
    row[STRATEGY_COLUMN] = round(float(unit[STRATEGY_COLUMN]))
    sample = ExplorationSample.inflate(5, row)
    assert sample.index == 5 and sample.strategy is Strategy(int(row[STRATEGY_COLUMN]))
    for p, coordinate in zip(PARAMETERS, row, strict=False):
        value = getattr(sample, p.symbol)
        assert p.lowest <= value <= p.highest
        expected = 10.0 ** float(coordinate) if p.is_log else float(coordinate)
        # N is a whole number
        assert value == pytest.approx(expected, rel=1e-5 if p.symbol != "N" else 1e-3, abs=1e-12)


def test_bounds_themselves_are_allowed_in_float32() -> None:
    for end in (0, 1):
        row = np.array(
            [math.log10((p.lowest, p.highest)[end]) if p.is_log else (p.lowest, p.highest)[end] for p in PARAMETERS]
            + [end],
            dtype=np.float32,
        )
        sample = ExplorationSample.inflate(0, row)
        assert (sample.N, sample.eta) == ((1000, 1e-4), (10**9, 1.0))[end]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 100.0])
@pytest.mark.parametrize("column", range(8))
def test_a_coordinate_outside_is_named(column: int, value: float) -> None:
    row = Space(PRESETS["cliff"]).from_unit(np.full((1, 9), 0.5))[0]
    row[STRATEGY_COLUMN] = 0
    row[column] = value
    with pytest.raises(InvalidArgument, match=rf"inputs\[{SYMBOLS[column]}\]"):
        ExplorationSample.inflate(0, row)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_every_row_and_column_is_checked(count: int) -> None:
    inputs = Space(PRESETS["cliff"]).from_unit(np.full((count, DIMENSIONS), 0.5, dtype=np.float32))
    check_limits(inputs, "rows")
    for row in {0, count // 2, count - 1}:
        for column in range(DIMENSIONS):
            for wrong in (1e9, -1e9, np.nan):
                outside = inputs.copy()
                outside[row, column] = wrong
                with pytest.raises(InvalidArgument, match=re.escape(f"rows[{COLUMNS[column]}]")):
                    check_limits(outside, "rows")
