"""Sobol indices against functions whose own are known, and of surrogates."""

from __future__ import annotations

import numpy as np
from caligo_surrogate.relevance import SETS, sobol

SLACK = 5
"""Standard errors; they are estimated from few sets."""


def ishigami(x):
    a, b, c = (np.pi * (2 * x - 1)).T
    return np.sin(a) + 7 * np.sin(b) ** 2 + 0.1 * c**4 * np.sin(a)


def agrees(found, errors, exact):
    np.testing.assert_array_less(np.abs(found - exact), SLACK * errors + 2e-3)


def test_ishigami():
    """Ishigami and Homma (1990); indices in closed form, Saltelli et al. (2008), eq. 4.47."""
    first, first_error, total, total_error = sobol(ishigami, 3, range(SETS)).T
    agrees(first, first_error, [0.3139, 0.4424, 0.0])
    agrees(total, total_error, [0.5576, 0.4424, 0.2437])
    assert max(first_error.max(), total_error.max()) < 0.03


def test_of_a_sum_first_order_and_total_are_the_same():
    slopes = np.array([3.0, 2.0, 1.0, 0.0])
    first, first_error, total, total_error = sobol(lambda x: x @ slopes, 4, range(SETS)).T
    agrees(first, first_error, slopes**2 / 14)
    agrees(total, total_error, slopes**2 / 14)
    assert total[3] < 1e-12


def test_errors_are_those_of_other_sets():
    """Of 40 answers 95 % lie within 1.96 errors, t with 7 degrees of freedom: within 2.36."""
    found = np.array([sobol(ishigami, 3, range(100 * k, 100 * k + SETS))[1, 2:] for k in range(1, 21)])
    assert np.mean(np.abs(found[:, 0] - 0.4424) < 2.36 * found[:, 1]) >= 0.8


def test_a_constant_has_none():
    assert not sobol(lambda x: np.zeros(len(x)), 3, range(2)).any()


def test_of_a_surrogate_they_rank_the_parameters(fitted):
    first, _, total, error = fitted.explain().relevance.T
    assert np.argmax(total) == 3  # F
    assert total[[5, 6]].max() < 0.02  # e_det and P_dark
    assert (first <= total + 5 * error + 0.02).all()
    assert first.sum() < 1.05
