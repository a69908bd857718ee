"""Where a device differs from the closed form: the test, the bound and the bands, on runs that the closed form made."""

from __future__ import annotations

import numpy as np
import pytest
from caligo_surrogate.design import design_points
from caligo_surrogate.discrepancy import AVERAGED, p_value
from caligo_surrogate.prior import DEEP
from scipy.stats import kstest

from caligo.closed_form import expect
from caligo.discrepancy import FEWEST_ROWS, PROFILE_STEPS, Verdict
from caligo.phases import Phase
from caligo.results import METRIC, ProtocolOutcome, Reason
from caligo.space import SYMBOLS
from caligo.spec import Bounds, SpaceSpec
from tests.surrogate.test_prior import (
    PHYSICS,
    PROTOCOL,
    SPACE,
    device_unlike_the_closed_form,
    landscape,
    runs,
    taught,
)

LANDMARKS = design_points(SPACE, 32, seed=5)


# --- the test -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tails", ["normal", "heavy", "of many scales"])
def test_p_is_uniform_where_nothing_differs(tails):
    unit = design_points(SPACE, 64, seed=1)[:40]
    found = []
    for repetition in range(150):
        rng = np.random.default_rng(repetition)
        residuals = rng.standard_t(2, 40) if tails == "heavy" else rng.standard_normal(40)
        if tails == "of many scales":
            residuals *= np.exp(4 * unit[:, 0] * unit[:, 3])
        found.append(p_value(unit, residuals, LANDMARKS, rng))
    assert kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) < 0.01) <= 0.04


@pytest.mark.parametrize("differs", [lambda unit: 1.0, lambda unit: 4 * (unit[:, 5] - 0.5)], ids=["shift", "slope"])
def test_what_differs_smoothly_is_found(differs):
    unit = design_points(SPACE, 64, seed=1)
    found = [
        p_value(unit, differs(unit) + rng.standard_normal(64), LANDMARKS, rng)
        for rng in map(np.random.default_rng, range(20))
    ]
    assert np.mean(np.array(found) < 0.01) >= 0.8


def test_a_single_row_far_off_decides_nothing():
    rng = np.random.default_rng(1)
    unit, residuals = design_points(SPACE, 64, seed=1)[:40], rng.standard_normal(40)
    before = p_value(unit, residuals, LANDMARKS, np.random.default_rng(2))
    residuals[np.argmax(np.abs(residuals))] *= 1000
    assert p_value(unit, residuals, LANDMARKS, np.random.default_rng(2)) == before


def test_too_few_rows_are_not_tested():
    unit = design_points(SPACE, 16, seed=1)[:FEWEST_ROWS]
    alike = np.linspace(3, 4, FEWEST_ROWS)
    assert p_value(unit, alike, LANDMARKS, np.random.default_rng(1)) < 0.01
    assert np.isnan(p_value(unit[1:], alike[1:], LANDMARKS, np.random.default_rng(1)))


# --- what a surrogate says of it --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alike(cliff, drain):
    return taught(runs(cliff.design(60, seed=1), seed=1), drain)[0].explain()


@pytest.fixture(scope="module")
def unlike(cliff, drain):
    return taught(runs(cliff.design(120, seed=1), 1, device_unlike_the_closed_form), drain)[0].explain()


def true_difference(inputs):
    """Of the device unlike the closed form, as far as it is learned, and where it is a question."""
    told, real = (expect(rows, PHYSICS, PROTOCOL) for rows in (inputs, device_unlike_the_closed_form(inputs)))
    return np.maximum(real.margin, 2 * DEEP) - told.margin, (told.margin > DEEP) & (told.filled * told.decoded > 0.5)


def test_a_device_like_the_closed_form_agrees_within_a_small_bound(alike):
    found = alike.discrepancy
    assert found.verdict is Verdict.AGREES
    assert 20 < found.rows <= 60
    assert 0 < found.bound < 0.02
    assert "no deviation found" in found.sentence
    assert np.nanmax(np.abs(alike.profiles[:, :, 1]) - alike.profiles[:, :, 2]) < 0.003


def test_a_device_unlike_it_is_told_with_where_and_how_much(unlike):
    found = unlike.discrepancy
    assert found.verdict is Verdict.DIFFERS
    assert found.p_value < 0.001
    assert found.parameter in ("e_det", "eta")
    point = np.array([found.point], dtype=np.float32)
    SPACE.check(point)
    true, matters = true_difference(point)
    assert matters.all()
    assert found.difference == pytest.approx(true[0], abs=0.05)
    assert abs(found.difference) > 4 * found.deviation
    d, matters = true_difference(SPACE.from_unit(design_points(SPACE, 512, seed=3)))
    assert np.quantile(np.abs(d[matters]), 0.9) < found.bound < 4 * np.abs(d[matters]).max()


def test_bands_cover_the_true_difference(unlike):
    """Of the average over all others; the band is that of an average over a few of them."""
    inside, there = 0, 0
    others = design_points(SPACE, 2048, seed=3)
    low, high = SPACE.model_bounds()
    for j in range(9):
        for coordinate, mean, half_width in unlike.profiles[j][:: 4 if j < 8 else 1]:
            if not np.isfinite(mean):
                continue
            unit = others.copy()
            unit[:, j] = (coordinate - low[j]) / (high[j] - low[j])
            d, matters = true_difference(SPACE.from_unit(unit))
            of_points = 1.96 * d[matters].std() / np.sqrt(AVERAGED * matters.mean())
            there += 1
            inside += abs(mean - d[matters].mean()) < np.hypot(half_width, of_points)
    assert there > 30
    assert inside >= 0.8 * there


def test_profiles_have_the_coordinates_of_the_space(unlike):
    low, high = SPACE.model_bounds()
    assert unlike.profiles.shape == (9, PROFILE_STEPS, 3)
    np.testing.assert_allclose(unlike.profiles[:8, [0, -1], 0], np.stack([low[:8], high[:8]], axis=1), rtol=1e-6)
    assert unlike.profiles[8, :2, 0].tolist() == [0, 1]
    assert np.isnan(unlike.profiles[8, 2:]).all()
    assert (unlike.profiles[np.isfinite(unlike.profiles[:, :, 1])][:, 2] > 0).all()


def test_without_a_row_that_has_a_margin_nothing_is_tested(cliff, drain):
    rows = runs(cliff.design(20, seed=1), seed=1)
    rows["outcome"], rows["reason"] = ProtocolOutcome.FAILURE_SECURITY, Reason.INSUFFICIENT_RAW
    rows["metrics"][:, METRIC["margin"]] = 0
    model = landscape()
    model.observe(Phase.LHS, rows)
    drain(model.fit())
    found = model.explain().discrepancy
    assert (found.rows, found.verdict) == (0, Verdict.NOT_TESTED)
    assert found.sentence.startswith("not tested: 0 rows have a margin that counts, 9 are needed; |difference| below")
    message = found.to_message()
    assert (message.verdict, message.HasField("p_value")) == ("not_tested", False)


def test_what_the_space_fixes_neither_matters_nor_changes(drain):
    space = SpaceSpec(bounds={"eta": Bounds(low=0.5, high=0.5)}, blind_fraction=1).resolve()
    unit = design_points(space, 32, seed=1)
    model = landscape(space)
    model.observe(Phase.LHS, runs(space.from_unit(unit), seed=1))
    drain(model.fit())
    explained = model.explain()
    fixed = [SYMBOLS.index("eta"), 8]
    assert not explained.relevance[fixed].any()
    assert np.isnan(explained.profiles[fixed]).all()
    assert np.isfinite(explained.profiles[SYMBOLS.index("F")]).any()
    assert explained.discrepancy.parameter not in ("eta", "strategy")


def test_where_nothing_matters_there_is_no_bound(drain):
    space = SpaceSpec(bounds={"N": Bounds(low=1000, high=2000)}).resolve()
    model = landscape(space)
    model.observe(Phase.LHS, runs(space.from_unit(design_points(space, 32, seed=1)), seed=1))
    drain(model.fit())
    explained = model.explain()
    found = explained.discrepancy
    assert (found.verdict, found.parameter) == (Verdict.NOT_TESTED, "")
    assert np.isnan([found.bound, found.difference, found.deviation, *found.point]).all()
    assert np.isnan(explained.profiles[:, :, 1:]).all()
    assert found.sentence == "not tested: 0 rows have a margin that counts, 9 are needed"
    assert list(found.to_message().point) == []


def test_a_surrogate_that_starts_from_nothing_compares_nothing(fitted):
    explained = fitted.explain()
    assert (explained.discrepancy, explained.profiles) == (None, None)
    assert explained.relevance.shape == (9, 4)
