"""Click probability and error rate against the quantum mechanics they summarise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caligo.physics.detection import click_probability, qber, source_error_fidelity, source_error_weight

probability = st.floats(0.0, 1.0)

Z = np.eye(2)
X = np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2.0)


def _exact(fidelity: float, eta: float, e: float, d: float, alice: np.ndarray, bob: np.ndarray):
    """(P_click, Q) from the 2 x 3 density matrix: Werner pair, loss channel, two-detector POVM.

    Bob's space is {H, V, vacuum}; a basis is a matrix whose columns are its two states.
    """
    phi = np.array([1.0, 0.0, 0.0, 1.0]) / np.sqrt(2.0)
    projector = np.outer(phi, phi)
    rho = fidelity * projector + (1.0 - fidelity) / 3.0 * (np.eye(4) - projector)

    embed = np.zeros((3, 2))
    embed[0, 0] = embed[1, 1] = 1.0
    losses = [np.sqrt(eta) * embed]
    for k in range(2):
        lost = np.zeros((3, 2))
        lost[2, k] = np.sqrt(1.0 - eta)
        losses.append(lost)
    state = sum(np.kron(np.eye(2), k) @ rho @ np.kron(np.eye(2), k).T for k in losses)

    vacuum = np.diag([0.0, 0.0, 1.0])
    photon = [embed @ np.outer(bob[:, b], bob[:, b]) @ embed.T for b in range(2)]
    arrives = [(1.0 - e) * photon[b] + e * photon[1 - b] for b in range(2)]  # the photon fires detector b
    only = [(1.0 - d) * arrives[b] + d * (1.0 - d) * vacuum for b in range(2)]
    double = d * (photon[0] + photon[1]) + d * d * vacuum
    silent = (1.0 - d) ** 2 * vacuum
    np.testing.assert_allclose(only[0] + only[1] + double + silent, np.eye(3), atol=1e-14)

    click = wrong = 0.0
    for a in range(2):
        on_alice = np.outer(alice[:, a], alice[:, a])
        for b in range(2):
            p = np.trace(state @ np.kron(on_alice, only[b] + 0.5 * double))
            click += p
            wrong += p if a != b else 0.0
    return click, wrong / click


def test_matches_density_matrix_at_random_points() -> None:
    rng = np.random.default_rng(20240312)
    for _ in range(300):
        fidelity, eta, e, d = (
            rng.uniform(0.25, 1),
            rng.uniform(1e-3, 1),
            rng.uniform(0, 0.5),
            rng.uniform(0, 0.3),
        )
        for basis in (Z, X):
            click, error = _exact(fidelity, eta, e, d, basis, basis)
            assert click_probability(eta, d) == pytest.approx(click, abs=1e-12)
            assert qber(fidelity, eta, e, d) == pytest.approx(error, abs=1e-12)
        assert _exact(fidelity, eta, e, d, Z, X)[1] == pytest.approx(0.5, abs=1e-12)


# F, eta, e_det, P_dark, Q (fidelity), Q (weight), P_click: independently computed, printed to six digits.
TABLE = [
    (0.99, 0.9, 0.01, 1e-6, 0.016534, 0.014901, 0.900000),
    (0.975, 0.5, 0.01, 1e-6, 0.026335, 0.022251, 0.500001),
    (0.95, 0.3, 0.02, 1e-5, 0.052025, 0.044026, 0.300014),
    (0.99, 0.95, 0.002, 1e-8, 0.008640, 0.006980, 0.950000),
    (0.99, 0.3, 0.002, 1e-8, 0.008640, 0.006980, 0.300000),
    (0.99996855, 0.015, 0.0093, 1.5e-8, 0.009322, 0.009316, 0.015000),
    (0.90, 0.5, 0.05, 1e-4, 0.110117, 0.095121, 0.500100),
    (0.80, 1.0, 0.05, 1e-3, 0.170330, 0.140360, 1.000000),
    (0.56, 1.0, 0.0, 1e-8, 0.293333, 0.220000, 1.000000),
    (0.99, 0.01, 0.0, 1e-3, 0.088580, 0.087190, 0.011979),
    (0.995, 0.95, 0.001, 1e-8, 0.004327, 0.003495, 0.950000),
    (0.99, 0.9, 0.005, 1e-6, 0.01160, None, 0.9),
]


@pytest.mark.parametrize(("fidelity", "eta", "e", "d", "q_fidelity", "q_weight", "p_click"), TABLE)
def test_reference_points(fidelity, eta, e, d, q_fidelity, q_weight, p_click) -> None:
    digits = 5 if q_weight is None else 6
    half_digit = 0.5 * 10.0**-digits + 1e-12
    assert click_probability(eta, d) == pytest.approx(p_click, abs=half_digit)
    assert qber(fidelity, eta, e, d) == pytest.approx(q_fidelity, abs=half_digit)
    if q_weight is not None:
        assert qber(fidelity, eta, e, d, convention="weight") == pytest.approx(q_weight, abs=half_digit)


def test_limits() -> None:
    wrong_port = 2 * 0.02 / 3 + 0.01 - 2 * (2 * 0.02 / 3) * 0.01
    for eta in (1e-3, 0.1, 1.0):
        assert qber(0.98, eta, 0.01, 0.0) == pytest.approx(wrong_port, abs=1e-15)
    assert qber(0.98, 1e-9, 0.01, 1e-2) == pytest.approx(0.5, abs=1e-6)
    assert qber(0.98, 0.0, 0.01, 0.0) == 0.5
    first_order = 1e-6 * (2 / 0.1 - 1) * (0.5 - wrong_port)  # 2 d / eta for small eta
    assert qber(0.98, 0.1, 0.01, 1e-6) - wrong_port == pytest.approx(first_order, rel=1e-4)


@given(st.floats(0.25, 1.0), probability, st.floats(0.0, 0.5), probability)
def test_qber_is_an_error_rate(fidelity: float, eta: float, e: float, d: float) -> None:
    assert 0.0 <= qber(fidelity, eta, e, d) <= 0.5 + 1e-12
    assert 0.0 <= click_probability(eta, d) <= 1.0


@given(st.floats(0.0, 1.0))
def test_the_conventions_name_one_state(weight: float) -> None:
    assert source_error_weight(weight) == pytest.approx(source_error_fidelity((1 + 3 * weight) / 4), abs=1e-12)


def test_unknown_convention() -> None:
    with pytest.raises(ValueError, match="convention"):
        qber(0.9, 0.5, 0.0, 0.0, convention="purity")  # type: ignore[arg-type]
