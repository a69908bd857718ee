"""Numbers printed in the papers, from the papers' own inputs; docs/physics.md sets the two side by side."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar

from caligo.physics.entropy import binary_entropy, inverse_binary_entropy
from caligo.physics.finite_key import detection_tolerance, erven2014_key_length, immediate_measurement_entropy
from caligo.physics.pdc import heralded_source
from caligo.physics.security import gamma, min_entropy_rate, rate_after_storage, strong_converse_exponent

# Erven et al., Nat. Commun. 5:3418 (2014), Table I.
TABLE_I = {
    "mu": 3.145e-5, "eta": 0.0150, "e_det": 0.0093, "p_dark": 1.5e-8, "n": 8.00e7,
    "r": 0.75, "nu": 0.002, "eps": 2.5e-7, "f": 1.491,
}  # fmt: skip


def test_erven_table_1() -> None:
    """Printed: m ~ 1.128e6, m_1 ~ 1.049e6 and 1,366 bits."""
    source = heralded_source(*(TABLE_I[k] for k in ("mu", "eta", "e_det", "p_dark")))
    n = TABLE_I["n"]
    zeta = detection_tolerance(n, TABLE_I["eps"])
    assert (1 - source.no_click) * n == pytest.approx(1.128e6, abs=0.5e3)
    assert (source.single + source.vacuum - source.no_click - 3 * zeta) * n == pytest.approx(1.049e6, abs=0.5e3)

    key = erven2014_key_length(**TABLE_I)
    # The printed inputs are rounded: half a unit of the last printed digit of mu alone moves the key by
    # less than a bit, of P_dark by some 25 bits, of eta and e_det by some 250.
    assert key == pytest.approx(1366, abs=60)
    spread = [
        erven2014_key_length(**{**TABLE_I, name: TABLE_I[name] + sign * half})
        for name, half in (("eta", 0.00005), ("e_det", 0.00005))
        for sign in (-1, 1)
    ]
    assert min(spread) < 1366 < max(spread)


@pytest.mark.parametrize(("eta", "limit", "tolerance"), [(0.015, 0.00954, 1e-5), (0.25, 0.0238, 5e-5)])
def test_erven_error_limits(eta: float, limit: float, tolerance: float) -> None:
    """Fig. 2, right: no key above 0.954 % at eta = 0.015, 2.38 % at eta = 0.25."""
    zero = brentq(lambda e: erven2014_key_length(**{**TABLE_I, "eta": eta, "e_det": e}), 0.001, 0.05, xtol=1e-9)
    assert zero == pytest.approx(limit, abs=tolerance)


@pytest.mark.parametrize(
    ("e_det", "low", "high"),
    [
        (0.0093, 0.0142, 0.0150),  # the text: 1.5 % "just allowed" a key
        (0.0230, 0.13, 0.15),  # the text: negative "even for" eta ~ 0.15
    ],
)
def test_erven_transmittance_limits(e_det: float, low: float, high: float) -> None:
    """Fig. 2, left: where the curves leave zero, as far as the text says it."""
    zero = brentq(lambda eta: erven2014_key_length(**{**TABLE_I, "eta": eta, "e_det": e_det}), 0.005, 0.5, xtol=1e-9)
    assert low < zero < high


def test_erven_code() -> None:
    """68,000 checks for 600,000 bits have the printed efficiency f = 1.491 within the rounding of e_det."""
    source = heralded_source(*(TABLE_I[k] for k in ("mu", "eta", "e_det", "p_dark")))
    checks_per_bit = 68_000 / 600_000
    high, low = (checks_per_bit / binary_entropy(source.error + half) for half in (-0.00005, 0.00005))
    assert low < TABLE_I["f"] < high


# Ng et al., Nat. Commun. 3:1326 (2012), Supplementary Methods D, "Our experiment".
NG_N = 2.5e5
NG_EPS = 0.99e-5
NG_ERROR = 0.0412
NG_NO_CLICK = 0.909
NG_AT_MOST_ONE = 0.99947
"""Probability that Bob was sent no photon or one."""
NG_CODE_EPS = 2e-7
NG_CODE_RATE = 0.531
NG_MIN_ENTROPY = 0.469133
NG_RETENTION = 0.9


def _distance(n: float, eps: float, p_err: float) -> float:
    """Least relative distance of the code (Theorem 7).

    Alice changes at least half the minimum distance d in one of the two openings, so that alpha_3 =
    sqrt(ln(1/eps) / d); the two-sided count of errors (S36) has alpha_2 = sqrt(ln(2/eps) / (2m)).
    """
    alpha_1 = math.sqrt(math.log(1 / eps) / (2 * n))
    alpha_2 = math.sqrt(math.log(2 / eps) / (2 * n * (0.5 - alpha_1)))
    return brentq(
        lambda d: d - 2 * (p_err + alpha_2) * (0.5 - alpha_1) / (0.5 - math.sqrt(math.log(1 / eps) / (d * n))),
        0.01,
        0.5,
    )


def test_ng12_code() -> None:
    """Steps 2, 3 and 5: delta > 0.0998201, R = 0.531, lambda > 0.469133, total error 2e-5."""
    # p_err is printed to half a unit of 1e-4, which moves delta by 1e-4.
    assert _distance(NG_N, NG_EPS, NG_ERROR) == pytest.approx(0.0998201, abs=1e-4)
    highest_rate = 1 - binary_entropy(0.0998201) - math.log2(1 / NG_CODE_EPS) / NG_N
    assert math.floor(1000 * highest_rate) / 1000 == NG_CODE_RATE
    assert 1 - NG_CODE_RATE + 2 * math.log2(1 / NG_EPS) / NG_N == pytest.approx(NG_MIN_ENTROPY, abs=5e-7)
    total = 2 * NG_EPS + NG_CODE_EPS
    assert total == pytest.approx(2e-5)


def _ng12_entropy(smoothing_cost: float) -> float:
    """Smooth min-entropy of the rounds in which Bob was sent one photon, before his memory is read, bits.

    max over s of {m phi(s) - smoothing_cost}/s (S70), m = (p - p_noclick) M - 3 deviations (S64), M from
    n = (1 - p_noclick) M - deviation (S30), deviation = sqrt(M ln(1/eps)/2).
    """
    deviation = math.sqrt(math.log(1 / NG_EPS) / 2)
    click = 1 - NG_NO_CLICK
    root = (deviation + math.sqrt(deviation**2 + 4 * click * NG_N)) / (2 * click)
    single = (NG_AT_MOST_ONE - NG_NO_CLICK) * root**2 - 3 * deviation * root
    return immediate_measurement_entropy(single, 2 ** (0.5 * (1 - smoothing_cost)))


def test_ng12_bounded_storage() -> None:
    """Printed: 928 qubits, S bits off the entropy for S qubits (S44).

    Met with the 3 log2(1/eps) of S70. The uncertainty relation itself, S40, has log2(2/eps^2).
    """
    needed = NG_MIN_ENTROPY * NG_N
    assert _ng12_entropy(3 * math.log2(1 / NG_EPS)) - needed == pytest.approx(928, abs=0.5)
    assert _ng12_entropy(math.log2(2 / NG_EPS**2)) - needed == pytest.approx(1277, abs=0.5)


def test_ng12_noisy_storage() -> None:
    """Printed: 972 qubits of noise r = 0.9 (S42, S72), "over all choices" of a split of eps; the best gives 976."""

    def storage(share: float) -> float:
        before = _ng12_entropy(3 * math.log2(1 / ((1 - share) * NG_EPS))) - math.log2(1 / (share * NG_EPS))
        return brentq(
            lambda size: rate_after_storage(NG_RETENTION, size / NG_N, before / NG_N) - NG_MIN_ENTROPY, 1.0, 1e4
        )

    largest = -minimize_scalar(lambda share: -storage(share), bounds=(1e-3, 0.5), method="bounded").fun
    assert largest == pytest.approx(976, abs=0.5)
    assert largest == pytest.approx(972, rel=5e-3)


def test_ng12_error_limit() -> None:
    """Fig. 2: with n = 250,000, eps = 3e-4 and next to no storage, p_err ~ 0.046 at most."""
    n, eps = 2.5e5, 3e-4
    spare = 3 * math.log2(1 / eps) / n  # Theorem 9
    distance = inverse_binary_entropy(immediate_measurement_entropy(n, eps) / n - spare)
    limit = brentq(lambda p: _distance(n, eps, p) - distance, 0.01, 0.1)
    assert limit == pytest.approx(0.046, abs=1e-3)


def _trusted(entropy_rate: float) -> float:
    """The least trusted depolarising parameter r_j with h((1 + r_j)/2) no more than the entropy rate."""
    return 1 - 2 * inverse_binary_entropy(entropy_rate)


def _dupuis(r: float) -> float:
    """Lupo Eq. 29."""
    return gamma(1 - math.log2(1 + 3 * r * r))


# r_dis; least r_1 by Eq. 43 (this paper), Eq. 44 (KWW), Eq. 45 (Dupuis, Fawzi, Wehner).
LUPO_FIGURE_4 = [
    (0.0, 0.7799, 0.7799, 0.7799), (0.2, 0.7799, 0.8929, 0.7799), (0.4, 0.7799, 0.9573, 0.8157),
    (0.5, 0.7799, 0.9774, 0.8910), (0.6, 0.8412, 0.9909, 0.9348), (0.7, 0.8935, 0.9983, 0.9633),
    (0.8, 0.9378, 1.0000, 0.9821), (0.9, 0.9740, 1.0000, 0.9940),
]  # fmt: skip


@pytest.mark.parametrize(("r_dis", "lupo", "kww", "dupuis"), LUPO_FIGURE_4)
def test_lupo_figure_4(r_dis: float, lupo: float, kww: float, dupuis: float) -> None:
    """The boundaries of the plot; printed is only that all begin at r_j = 0.78, 22 % noise."""
    assert _trusted(min_entropy_rate(r_dis, 1.0, "lupo2023")) == pytest.approx(lupo, abs=5e-5)
    assert _trusted(min_entropy_rate(r_dis, 1.0, "kww2012")) == pytest.approx(kww, abs=5e-5)
    assert _trusted(min(0.5, _dupuis(r_dis))) == pytest.approx(dupuis, abs=5e-5)
    assert lupo <= dupuis <= kww
    assert lupo >= 0.78 - 0.005


@pytest.mark.parametrize(("r_mem", "r_2"), [(0.6, 0.7799), (0.7, 0.8305), (0.8, 0.9048), (0.9, 0.9628)])
def test_lupo_figure_4_without_measurement_noise(r_mem: float, r_2: float) -> None:
    """Eq. 46: Alice's noise spoils the stored qubits as well."""
    found = brentq(lambda r: min_entropy_rate(r * r_mem, 1.0) - binary_entropy((1 + r) / 2), 0.5, 1.0 - 1e-12)
    assert found == pytest.approx(r_2, abs=5e-5)


def test_lupo_figure_5() -> None:
    """Eq. 54: r_2 from 0.78 (22 % noise) at nu = 0, "nearly linearly" to 1 (none) at nu = 1."""

    def least(nu: float) -> float:
        return brentq(lambda r: min_entropy_rate(r, nu) - binary_entropy((1 + r) / 2), 0.5, 1 - 1e-9, xtol=1e-12)

    assert least(0.0) == pytest.approx(0.78, abs=0.005)
    assert least(0.5) == pytest.approx(0.8915, abs=5e-5)
    assert least(0.999) == pytest.approx(1.0, abs=1e-3)
    assert all(abs(least(nu) - (0.78 + 0.22 * nu)) < 0.01 for nu in np.linspace(0.05, 0.95, 19))


def test_lupo_comparisons_of_bounds() -> None:
    """What the text says of Figs. 1, 2 and 6."""
    grid = np.linspace(0.001, 0.999, 999)
    exponent = np.array([strong_converse_exponent(r, 0.5) for r in grid])
    chain = 0.5 * (1 - 2 * grid)
    dupuis = np.array([_dupuis(r) for r in grid])
    assert np.array_equal(chain > exponent, grid < 0.1891)  # "Eq. (10) is tighter for small values", by little
    assert (chain - exponent).max() < 0.007
    assert (dupuis > np.maximum(chain, exponent)).all()  # "supersedes those obtained in the previous Sections"
    correlated = [
        np.array([gamma(max(-1.0, 1 - math.log2(1 + (4**m - 1) * r * r) / m)) for r in grid]) for m in (1, 2, 5)
    ]
    assert (np.diff(correlated, axis=0) < 0).all()  # "decreases with increasing m"
    # "our new bound is always tighter": not below r = 0.2525, where both exceed what a rational Bob leaves.
    assert all((bound[grid > 0.2525] < 1 - grid[grid > 0.2525]).all() for bound in correlated)


def test_individual_attack_parameter() -> None:
    """STW09 Cor. 7 prints r~ = 2 h^-1(1/2) - 1 ~ 0.7798; 0.77994 if h^-1(1/2) = 0.88997 is not cut to 0.8899."""
    assert _trusted(0.5) == pytest.approx(0.7798, abs=2e-4)
    assert 2 * math.floor(1e4 * (1 - inverse_binary_entropy(0.5))) / 1e4 - 1 == pytest.approx(0.7798, abs=1e-9)
