"""Cheapest improvements, beside worked values, a brute-force search and the closed form of the cost."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from caligo import requirements
from caligo.closed_form import expected
from caligo.errors import InvalidArgument
from caligo.physics import detection
from caligo.points import point
from caligo.requirements import IMPROVABLE, Requirement, improved
from caligo.space import PARAMETERS, SYMBOLS, Space
from caligo.spec import CampaignSpec, SpaceSpec, validate

BOUNDS = {
    "r": [0.05, 0.99],
    "nu": [0.01, 1.0],
    "F": [0.8, 1.0],
    "eta": [1e-3, 1.0],
    "e_det": [0.0, 0.1],
    "P_dark": [1e-9, 1e-3],
    "N": [1e4, 1e8],
}
SPEC = validate(CampaignSpec, {"space": {"bounds": BOUNDS, "blind_fraction": 0}, "physics": {"memory_model": "fixed"}})
SPACE = SPEC.space.resolve()
LOSS = 10**-0.5
"""5 dB of fibre, which no hardware improves."""


def ask(predict, level=0.5, free=IMPROVABLE, weights=None, space: Space = SPACE, **baseline) -> Requirement:
    weights = weights or {}
    free = requirements.check(free, weights, space)
    asking = requirements.steps(space, point(baseline, space), free, weights, level)
    rows = next(asking)
    while True:
        try:
            rows = asking.send(predict(rows).astype(np.float32))
        except StopIteration as end:
            return end.value[0]


def physical(rows: np.ndarray) -> dict[str, np.ndarray]:
    rows = rows.astype(float)
    return {p.symbol: 10.0 ** rows[:, j] if p.is_log else rows[:, j] for j, p in enumerate(PARAMETERS)}


def error_rate(values: dict[str, np.ndarray]) -> np.ndarray:
    eta, d = values["eta"] * LOSS, values["P_dark"]
    click = detection.click_probability(eta, d)
    source = 2.0 * (1.0 - values["F"]) / 3.0
    wrong = source + values["e_det"] - 2.0 * source * values["e_det"]
    return (eta * (wrong * (1.0 - d) + 0.5 * d) + 0.5 * (1.0 - eta) * d * (2.0 - d)) / click


def by_error_rate(limit: float):
    """Predictions of a world in which a key is there where the error rate is below a limit, smooth in between."""

    def predict(rows: np.ndarray) -> np.ndarray:
        margin = limit - error_rate(physical(rows))
        key = 1.0 / (1.0 + np.exp(-np.clip(margin / 1e-4, -50.0, 50.0)))
        sd = np.full_like(margin, 1e-4)
        return np.stack([margin, sd, key, margin, sd, key], axis=1)

    return predict


def by_closed_form(rows: np.ndarray) -> np.ndarray:
    theory = expected(rows, SPEC)
    return np.concatenate([theory, theory], axis=1)


@pytest.mark.parametrize(
    ("limit", "cost", "factors"),
    [(0.0417, 5.931, (1.827, 1.371, 1.733, 1.0)), (0.02, 10.670, (3.843, 1.919, 3.627, 1.282))],
)
def test_worked_values(limit, cost, factors) -> None:
    """F .95, device efficiency .063 behind 5 dB, e .03, d 3e-4: error rate .0740, to a limit."""
    baseline = {"F": 0.95, "eta": 0.063, "e_det": 0.03, "P_dark": 3e-4}
    found = ask(by_error_rate(limit), **baseline)
    assert found.cost == pytest.approx(cost, rel=2e-3)
    # The valley is flat: factors are known less well than the cost.
    assert [found.factors[symbol] for symbol in IMPROVABLE] == pytest.approx(factors, rel=0.08)
    assert found.closed_form_cost == pytest.approx(found.cost, rel=2e-3)
    assert found.key == pytest.approx(0.5, abs=0.2)


def test_what_is_improved() -> None:
    k = np.array([2, 5, 10])
    assert improved("F", 0.95, k).tolist() == pytest.approx([0.974569, 0.989722, 0.994843], abs=1e-6)
    assert improved("eta", 0.02, k).tolist() == pytest.approx([0.141421, 0.457305, 0.676243], abs=1e-6)
    assert improved("e_det", 0.03, k).tolist() == pytest.approx([0.0151142, 0.0060733, 0.0030413], abs=1e-7)
    assert float(improved("P_dark", 1e-5, 4)) == pytest.approx(2.5e-6, rel=1e-4)


def brute_force(baseline: dict[str, float], level: float) -> float:
    """By the closed form: every combination of factors on a grid, then on finer ones around the best."""
    start = {symbol: baseline[symbol] for symbol in IMPROVABLE}
    centre, width, best = [1.0] * 4, 4.0, math.inf
    for _ in range(5):
        spread = np.exp(np.linspace(-width, width, 11))
        grids = [np.unique(np.clip(c * spread, 1.0, 1e4)) for c in centre]
        factors = np.array(list(itertools.product(*grids)))
        rows = np.tile(point(baseline, SPACE), (len(factors), 1))
        for j, symbol in enumerate(IMPROVABLE):
            column = SYMBOLS.index(symbol)
            low, high = SPACE.bounds[symbol]
            values = np.clip(improved(symbol, start[symbol], factors[:, j]), low, high)
            rows[:, column] = np.log10(values) if PARAMETERS[column].is_log else values
        secure = expected(rows, SPEC)[:, 2] >= level
        if secure.any():
            costs = np.where(secure, factors.sum(axis=1), math.inf)
            best = min(best, float(costs.min()))
            centre = factors[int(costs.argmin())].tolist()
        width *= 0.35
    return best


BASELINES = [
    {"F": f, "eta": eta, "e_det": e, "P_dark": d, "N": n, "r": 0.2, "nu": nu, "dt_ns": 1e9}
    for f, eta, e, d, n, nu in [
        (0.9, 0.05, 0.03, 1e-5, 1e6, 0.1),
        (0.93, 0.02, 0.02, 1e-4, 1e6, 0.3),
        (0.88, 0.1, 0.05, 1e-6, 1e7, 0.1),
        (0.95, 0.004, 0.03, 1e-5, 1e6, 0.1),
        (0.85, 0.3, 0.01, 1e-6, 1e6, 0.05),
        (0.94, 0.01, 0.04, 3e-4, 1e7, 0.2),
        (0.91, 0.2, 0.06, 1e-8, 1e5, 0.1),
        (0.96, 0.002, 0.01, 1e-4, 1e8, 0.4),
        (0.9, 0.03, 0.08, 1e-7, 1e6, 0.02),
        (0.87, 0.01, 0.02, 1e-5, 3e6, 0.1),
    ]
]


@pytest.mark.parametrize("number", range(len(BASELINES)))
def test_no_search_of_all_is_cheaper(number) -> None:
    found = ask(by_closed_form, level=0.95, **BASELINES[number])
    assert found.cost <= 1.02 * brute_force(BASELINES[number], 0.95)
    row = point({**BASELINES[number], **found.values}, SPACE)
    assert expected(row[np.newaxis], SPEC)[0, 2] >= 0.95 - 2e-3
    assert found.cost == pytest.approx(sum(found.factors.values()), rel=1e-6)
    assert found.low == pytest.approx(found.cost, rel=0.02)  # the closed form is sure of itself
    assert found.high == pytest.approx(found.cost, rel=0.02)


def test_a_weight_moves_the_choice() -> None:
    plain = ask(by_closed_form, level=0.95, **BASELINES[0])
    dear = ask(by_closed_form, level=0.95, weights={"F": 5.0}, **BASELINES[0])
    assert dear.factors["F"] < plain.factors["F"]
    assert sum(f for s, f in dear.factors.items() if s != "F") > sum(f for s, f in plain.factors.items() if s != "F")


def test_what_is_good_enough_costs_nothing_more() -> None:
    found = ask(by_closed_form, level=0.95, F=0.99, eta=0.5, e_det=0.005, P_dark=1e-8, N=1e7, r=0.1, nu=0.05, dt_ns=1e9)
    assert found.cost == 4.0
    assert set(found.factors.values()) == {1.0}


def test_what_no_hardware_can_do_is_said() -> None:
    hopeless = {"F": 0.85, "eta": 0.05, "e_det": 0.03, "P_dark": 1e-5, "N": 1e6, "dt_ns": 1e9}
    found = ask(by_closed_form, level=0.95, free=("e_det",), **hopeless)
    assert math.isinf(found.cost) and not found.factors
    assert math.isinf(found.closed_form_cost)


@pytest.mark.parametrize(
    ("free", "weights", "field", "what"),
    [
        (("r",), {}, "free", "no hardware"),
        (("f",), {}, "free", "did you mean F"),
        ((), {}, "free", "at least one"),
        (("F",), {"eta": 2.0}, "weights", "not among"),
        (("F",), {"F": 0.0}, "weights", "above 0"),
        (("F",), {"F": math.nan}, "weights", "above 0"),
    ],
)
def test_questions_that_make_no_sense(free, weights, field, what) -> None:
    with pytest.raises(InvalidArgument, match=what) as refused:
        requirements.check(free, weights, SPACE)
    assert refused.value.violations[0].field == field


def test_a_fixed_parameter_is_not_improved() -> None:
    space = validate(SpaceSpec, {"bounds": {"F": [0.95, 0.95]}}).resolve()
    with pytest.raises(InvalidArgument, match=r"F is fixed at 0\.95"):
        requirements.check(("F", "eta"), {}, space)
