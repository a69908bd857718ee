"""The published distributions have the published thresholds (Elkouss et al. 2009, Table I)."""

from __future__ import annotations

import pytest

from tools.codes.density_evolution import converges, threshold
from tools.codes.distributions import E09_CHECK, E09_VARIABLE

from .published import MM12

PUBLISHED = {
    0.50: 0.1071,
    0.55: 0.0904,
    0.60: 0.0766,
    0.65: 0.0633,
    0.70: 0.0504,
    0.75: 0.0392,
    0.80: 0.0298,
    0.85: 0.0199,
    0.90: 0.0109,
}
QUICK = (0.75, 0.80, 0.90)


@pytest.mark.parametrize(
    "rate", [rate if rate in QUICK else pytest.param(rate, marks=pytest.mark.slow) for rate in PUBLISHED]
)
def test_published_thresholds(rate: float) -> None:
    assert converges(E09_VARIABLE[rate], E09_CHECK[rate], PUBLISHED[rate] - 1e-3)
    assert not converges(E09_VARIABLE[rate], E09_CHECK[rate], PUBLISHED[rate] + 1e-3)


@pytest.mark.parametrize("rate", [*(pytest.param(rate, marks=pytest.mark.slow) for rate in (0.5, 0.6, 0.7)), 0.8])
def test_published_thresholds_of_sparser_codes(rate: float) -> None:
    """Martinez-Mateo et al. 2012, Appendix B, which prints six digits."""
    variables, checks, printed = MM12[rate]
    assert threshold(variables, checks) == pytest.approx(printed, abs=5e-4)


def test_regular_code() -> None:
    """The (3, 6) ensemble: 0.084 (Richardson, Urbanke, IEEE TIT 47 (2001) 599, Table II)."""
    assert threshold({3: 1.0}, {6: 1.0}) == pytest.approx(0.084, abs=5e-4)
