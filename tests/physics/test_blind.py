"""What frames of the blind protocol disclose is what the plans of the shipped codes say."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.blind_leakage import tables
from caligo.physics import blind
from caligo.physics.efficiency import FRAME_SIZES, LEAST_LEAKAGE, blind_efficiency
from caligo.physics.entropy import binary_entropy

GRID = np.geomspace(blind.LOWEST, blind.HIGHEST, blind.POINTS)


@pytest.mark.parametrize("size", [0, 1])
def test_tables(size: int) -> None:
    """Where this fails after a change of codes: python -m benchmarks.blind_leakage."""
    assert (blind.LEAK[size], blind.DEVIATION[size], blind.LEAST[size]) == tables(size)


@pytest.mark.parametrize("size", [0, 1])
def test_between_the_points(size: int) -> None:
    at_points = blind.disclosed(GRID, np)[size]
    np.testing.assert_allclose(at_points.planned, blind.LEAK[size], atol=1e-9)
    np.testing.assert_allclose(at_points.mean, np.array(blind.LEAK[size]) * blind.LONGER[size], atol=1e-9)
    np.testing.assert_allclose(at_points.least, blind.LEAST[size], atol=1e-9)
    between = blind.disclosed(np.sqrt(GRID[1:] * GRID[:-1]), np)[size]
    np.testing.assert_allclose(between.planned, 0.5 * (at_points.planned[1:] + at_points.planned[:-1]), atol=1e-9)
    below, above = (blind.disclosed(np.array([q]), np)[size] for q in (0.0, 0.5))
    assert below.planned == pytest.approx(LEAST_LEAKAGE[size], abs=1e-4)
    assert above.planned == pytest.approx(blind.LEAK[size][-1])


@pytest.mark.parametrize("size", [0, 1])
def test_the_smooth_table_is_near(size: int) -> None:
    smooth = [blind_efficiency(q, FRAME_SIZES[size]) * binary_entropy(q) for q in GRID.tolist()]
    off = np.array(blind.LEAK[size]) - smooth
    assert np.abs(off).max() < 0.03
    assert np.sqrt(np.mean(off**2)) < 0.008
