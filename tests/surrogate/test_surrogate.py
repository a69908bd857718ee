"""The landscape of a campaign: which rows count as what, quality, the guardrail's rows, export."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from caligo_surrogate.findings import BOUNDARY_POINTS
from caligo_surrogate.rows import MIN_ROWS
from sklearn.metrics import brier_score_loss, f1_score

from caligo.errors import FailedPrecondition, InvalidArgument
from caligo.phases import Phase
from caligo.results import METRIC, ProtocolOutcome

NOTHING = np.zeros((0, 9), dtype=np.float32)


@pytest.fixture(scope="module")
def test_rows(cliff):
    return cliff.rows(cliff.design(2000, seed=99))


# --- learning -------------------------------------------------------------------------------------------------------


def test_cliff_is_found_from_200_points(fitted, test_rows):
    prediction = fitted.predict(test_rows["inputs"])
    success = test_rows["outcome"] == ProtocolOutcome.SUCCESS
    assert f1_score(success, prediction.key > 0.5) > 0.95
    assert brier_score_loss(success, prediction.key) < 0.03
    assert {a.dtype for a in (prediction.mean, prediction.sd, prediction.key)} == {np.dtype(np.float32)}


def test_margin_is_a_better_target_than_clipped_efficiency(make, fitted, test_rows, drain):
    clipped = make(200, target="efficiency")
    drain(clipped.fit())
    success = test_rows["outcome"] == ProtocolOutcome.SUCCESS
    by_margin, by_efficiency = (
        brier_score_loss(success, m.predict(test_rows["inputs"]).key) for m in (fitted, clipped)
    )
    assert by_margin < 0.5 * by_efficiency


def test_fit_reports_steps_and_validation(make, drain):
    steps, summary = drain(make(150).fit(0.2))
    assert [p.step for p in steps] == list(range(1, summary.steps + 1))
    assert summary.rows == 150
    assert summary.solver == "cholesky"
    assert summary.validation.rows == 30
    assert summary.validation.rmse < 0.05
    assert summary.validation.f1 > 0.85
    assert summary.validation.brier < 0.1
    half, most, nearly_all = summary.validation.coverage
    assert 0.2 < half < most <= nearly_all
    assert nearly_all > 0.8


def test_held_out_rows_are_not_seen(make, cliff, drain):
    """Rows whose margin is noise cannot be predicted: an error as large as their spread betrays no leak."""
    landscape = make()
    rows = cliff.rows(cliff.design(120, seed=1))
    noise = np.random.default_rng(0).standard_normal(120)
    rows["metrics"][:, METRIC["margin"]] = noise
    rows["outcome"] = np.where(noise > 0, ProtocolOutcome.SUCCESS, ProtocolOutcome.FAILURE_SECURITY)
    landscape.observe(Phase.LHS, rows)
    _, summary = drain(landscape.fit(0.3))
    assert summary.validation.rmse > 0.8


def test_cross_validation_foretells_each_row_from_the_others(make, cliff, drain):
    landscape = make(40)
    drain(landscape.fit())
    rows = landscape.rows()
    errors = []
    for i in range(40):
        without = make()
        without.observe(Phase.LHS, np.delete(rows, i))
        without.load(*landscape.export())
        prediction = without.predict(rows["inputs"][i : i + 1])
        errors.append(rows["metrics"][i, METRIC["margin"]] - prediction.mean[0])
    validation = landscape.cross_validate(40)
    assert validation.rows == 40
    assert validation.rmse == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-3)
    assert landscape.cross_validate(5).rmse > 0.8 * validation.rmse, "fewer rows to learn from in each fold"


def test_cross_validation_takes_simulated_rows_of_phase_1_alone(make, cliff, drain):
    landscape = make(60)
    infeasible = cliff.rows(cliff.design(20, seed=2), start=60)
    infeasible["outcome"] = ProtocolOutcome.SKIPPED_INFEASIBLE
    landscape.observe(Phase.LHS, infeasible)
    landscape.observe(Phase.ACTIVE, cliff.rows(cliff.design(30, seed=3)))
    drain(landscape.fit())
    assert landscape.cross_validate(5).rows == 60
    assert landscape.cross_validate(1) is None
    assert landscape.cross_validate(61) is None


def test_boundary_is_a_fixed_set_with_the_posteriors_own_sides(make, fitted, cliff, drain):
    sides = fitted.sides()
    assert len(sides) == BOUNDARY_POINTS
    assert (sides == fitted.sides()).all()
    assert abs(sides.mean() - fitted.secure_fraction()[0]) < 0.02, "the same measure of the space"
    informed = make(200)
    drain(informed.fit())
    informed.observe(Phase.ACTIVE, cliff.rows(cliff.design(200, seed=3)))
    assert 0 < (sides != informed.sides()).mean() < 0.1
    assert 0 < informed.expected_brier() < fitted.expected_brier() < 0.25


def test_without_holdout_there_is_no_validation(make, drain):
    assert drain(make(50).fit())[1].validation is None


def test_warm_fit_takes_fewer_steps(make, cliff, drain):
    landscape = make(150)
    _, first = drain(landscape.fit())
    landscape.observe(Phase.ACTIVE, cliff.rows(cliff.design(8, seed=2)))
    _, second = drain(landscape.fit())
    assert second.rows == 158
    assert second.steps < first.steps


def test_too_few_rows(make, drain):
    with pytest.raises(FailedPrecondition, match=str(MIN_ROWS)):
        drain(make(MIN_ROWS - 1).fit())


def test_one_value_everywhere_can_be_fitted(make, cliff, drain):
    landscape = make()
    rows = cliff.rows(cliff.design(30, seed=1))
    rows["metrics"][:, METRIC["margin"]] = -1
    landscape.observe(Phase.LHS, rows)
    drain(landscape.fit())
    prediction = landscape.predict(rows["inputs"])
    np.testing.assert_allclose(prediction.mean, -1, atol=0.05)
    assert (prediction.key < 0.5).all()


# --- rows -----------------------------------------------------------------------------------------------------------


def test_observing_again_changes_nothing(make, cliff, drain):
    landscape = make(60)
    drain(landscape.fit())
    query = cliff.design(20, seed=8)
    before = landscape.predict(query).mean
    again = cliff.rows(cliff.design(60, seed=1))
    again["metrics"][:, METRIC["margin"]] = 0.7
    landscape.observe(Phase.LHS, again)
    assert landscape.rows_held == 60
    np.testing.assert_array_equal(landscape.predict(query).mean, before)


def test_same_index_in_another_phase_is_another_row(make, cliff):
    landscape = make(60)
    landscape.observe(Phase.ACTIVE, cliff.rows(cliff.design(5, seed=2)))
    assert landscape.rows_held == 65


def test_fit_does_not_depend_on_the_order_of_rows(make, cliff, drain):
    rows = np.concatenate([cliff.rows(cliff.design(50, seed=1)), cliff.rows(cliff.design(30, seed=2), start=50)])
    query = cliff.design(50, seed=3)
    answers = []
    for order in (np.arange(80), np.random.default_rng(1).permutation(80)):
        landscape = make()
        for part in np.array_split(rows[order], 3):
            landscape.observe(Phase.LHS, part)
        _, summary = drain(landscape.fit(0.2))
        answers.append(
            (summary, landscape.predict(query).mean.tolist(), landscape.screen(query, np.arange(50))[0].tolist())
        )
    assert answers[0] == answers[1]


@pytest.mark.parametrize("outcome", [ProtocolOutcome.FAILURE_TIMEOUT, ProtocolOutcome.FAILURE_ERROR])
def test_faults_say_nothing(make, cliff, drain, outcome):
    plain, disturbed = make(60), make(60)
    broken = cliff.rows(cliff.design(20, seed=2), start=60)
    broken["outcome"] = outcome
    disturbed.observe(Phase.LHS, broken)
    query = cliff.design(20, seed=8)
    means = []
    for landscape in (plain, disturbed):
        drain(landscape.fit())
        means.append(landscape.predict(query).mean)
    np.testing.assert_array_equal(*means)


def test_infeasible_rows_are_data(make, cliff, drain):
    landscape = make(60)
    rows = cliff.rows(cliff.design(20, seed=2), start=60)
    rows["outcome"] = ProtocolOutcome.SKIPPED_INFEASIBLE
    landscape.observe(Phase.LHS, rows)
    _, summary = drain(landscape.fit(0.5))
    assert summary.rows == 80
    assert summary.validation.rows == 30, "only simulated rows are held out"


def test_predicted_failures_are_imputed_below_the_cliff_and_narrow_the_posterior(make, cliff, drain):
    landscape = make(150)
    drain(landscape.fit())
    inputs = cliff.design(40, seed=12)
    before = landscape.predict(inputs)
    skipped = cliff.rows(inputs)
    skipped["metrics"] = np.nan
    skipped["outcome"] = ProtocolOutcome.SKIPPED_PREDICTED_FAILURE
    landscape.observe(Phase.ACTIVE, skipped)
    after = landscape.predict(inputs)
    dead = before.mean < -0.1
    np.testing.assert_allclose(after.mean[dead], before.mean[dead], atol=0.05)  # not pulled up to the cliff
    assert (after.sd <= before.sd + 1e-4).all()
    assert (after.mean < before.mean + 0.05).all()
    alive = before.mean > 0.1
    assert (after.mean[alive] < before.mean[alive]).all()
    assert after.mean[alive].mean() < 0.6 * before.mean[alive].mean()
    _, summary = drain(landscape.fit())
    assert summary.rows == 150, "hyper-parameters are trained without imputed rows"


def test_predicted_failures_are_zeros_of_the_efficiency(make, cliff, drain):
    landscape = make(100, target="efficiency")
    skipped = cliff.rows(cliff.design(30, seed=12))
    skipped["metrics"] = np.nan
    skipped["outcome"] = ProtocolOutcome.SKIPPED_PREDICTED_FAILURE
    landscape.observe(Phase.ACTIVE, skipped)
    _, summary = drain(landscape.fit())
    assert summary.rows == 130
    assert np.abs(landscape.predict(skipped["inputs"]).mean).max() < 0.01


# --- prediction at any size -----------------------------------------------------------------------------------------


def test_prediction_in_pieces_is_the_prediction(make, cliff, drain, MockGPUBackend):
    whole, small = MockGPUBackend(), MockGPUBackend(capacity=1000)
    query = cliff.design(900, seed=8)
    answers = []
    for backend in (whole, small):
        landscape = make(80, device=backend)
        drain(landscape.fit())
        if backend is small:
            backend.capacity = 100
        answers.append(landscape.predict(query))
    assert max(shape[0] for shape in small.downloads) <= 100 < max(shape[0] for shape in whole.downloads)
    np.testing.assert_allclose(answers[1].mean, answers[0].mean, atol=1e-3 * answers[0].mean.std())
    np.testing.assert_allclose(answers[1].sd, answers[0].sd, rtol=1e-2)
    assert {dtype for _, dtype in whole.uploads + small.uploads} == {torch.float32}


def test_everything_passes_through_the_device_in_float32(make, cliff, drain, MockGPUBackend):
    backend = MockGPUBackend()
    landscape = make(80, device=backend)
    drain(landscape.fit(0.2))
    landscape.propose(0, 3, cliff.design(2, seed=3))
    landscape.secure_fraction()
    assert {dtype for _, dtype in backend.uploads} == {torch.float32}
    assert (80, 9) in [tuple(shape) for shape, _ in backend.uploads], "training rows"
    assert (2, 9) in [tuple(shape) for shape, _ in backend.uploads], "pending rows"
    assert (3, 9) in [tuple(shape) for shape in backend.downloads], "proposals"


def test_nothing_asked_nothing_answered(fitted):
    assert len(fitted.predict(NOTHING).mean) == 0


# --- what the user learns -------------------------------------------------------------------------------------------


def test_length_scales_rank_the_parameters(fitted):
    scales = fitted.length_scales()
    assert scales.dtype == np.float32
    assert scales[[3, 7]].max() < scales[[5, 6]].min()


def test_secure_fraction_covers_the_truth(fitted, cliff, space):
    rng = np.random.default_rng(0)
    unit = rng.random((40_000, 9))
    unit[:, 3] = np.sqrt(unit[:, 3])
    unit[:, 8] = unit[:, 8] >= 0.5
    truth = (cliff.margin(unit) > 0).mean()
    share, error = fitted.secure_fraction()
    assert 0 < error < 0.05
    assert abs(share - truth) < error + 0.015  # a Sobol set of 1,024 points has an error of its own


# --- guardrail ------------------------------------------------------------------------------------------------------


def test_own_skips_never_train_the_guardrail(make, cliff):
    landscape = make(200)
    query = cliff.design(100, seed=4)
    before = landscape.screen(query, np.arange(100))
    skipped = cliff.rows(cliff.design(100, seed=5))
    skipped["outcome"] = ProtocolOutcome.SKIPPED_PREDICTED_FAILURE
    landscape.observe(Phase.ACTIVE, skipped)
    np.testing.assert_array_equal(landscape.screen(query, np.arange(100)), before)


def test_infeasible_rows_teach_the_guardrail(make, cliff):
    """A corner that only infeasible rows occupy is called dead, though no simulation was made there."""
    rows = cliff.rows(cliff.design(600, seed=1))
    corner = cliff.space.to_unit(rows["inputs"])[:, 5] > 0.6
    rows["outcome"][corner] = ProtocolOutcome.SKIPPED_INFEASIBLE
    landscape = make()
    landscape.observe(Phase.LHS, rows)
    query = cliff.design(500, seed=2)
    deep = cliff.space.to_unit(query)[:, 5] > 0.7
    probability, _ = landscape.screen(query, np.arange(500))
    assert (probability[deep] > 0.9).mean() > 0.9


# --- export ---------------------------------------------------------------------------------------------------------


def test_export_and_load_give_the_same_model(make, fitted, cliff):
    other = make(200)
    other.load(*fitted.export())
    query = cliff.design(30, seed=8)
    np.testing.assert_array_equal(other.predict(query).mean, fitted.predict(query).mean)
    np.testing.assert_array_equal(other.predict(query).sd, fitted.predict(query).sd)
    np.testing.assert_array_equal(other.propose(1, 2, NOTHING), fitted.propose(1, 2, NOTHING))
    np.testing.assert_array_equal(other.length_scales(), fitted.length_scales())


def test_loaded_without_rows_cannot_predict(make, fitted, cliff):
    other = make()
    other.load(*fitted.export())
    with pytest.raises(FailedPrecondition, match="rows"):
        other.predict(cliff.design(1, seed=1))


def test_unfitted_has_nothing_to_export(make):
    with pytest.raises(FailedPrecondition, match="not fitted"):
        make(20).export()


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda t, m: (t[:-3], m), "tensors"),
        (lambda t, m: (b"", m), "tensors"),
        (lambda t, m: (t, m[:-1]), "metadata"),
        (lambda t, m: (t, "[]"), "metadata"),
        (lambda t, m: (t, json.dumps({**json.loads(m), "target": "efficiency"})), "metadata"),
    ],
)
def test_bad_exports_are_refused(make, fitted, spoil, field):
    landscape = make(20)
    with pytest.raises(InvalidArgument) as refused:
        landscape.load(*spoil(*fitted.export()))
    assert refused.value.violations[0].field == field
    assert not landscape.is_fitted


# --- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["cholesky", "cg", "auto"])
def test_a_gpu_agrees_with_the_cpu(make, fitted, cliff, drain, gpu, solver):
    on_gpu = make(200, device=gpu, solver=solver)
    on_gpu.load(*fitted.export())
    query = cliff.design(3000, seed=8)
    expected, got = fitted.predict(query), on_gpu.predict(query)
    np.testing.assert_allclose(got.mean, expected.mean, atol=1e-2 * expected.mean.std())
    np.testing.assert_allclose(got.sd, expected.sd, rtol=0.05)
    _, summary = drain(on_gpu.fit(0.2))
    assert summary.validation.f1 > 0.85
    assert on_gpu.propose(0, 4, query[:3]).shape == (4, 9)
    posterior = on_gpu._soundly(lambda fitted: fitted.posterior)
    held = {"inputs": posterior.matrix.inputs, "length scales": posterior.matrix.matern.length_scales}
    assert {value.device.type for value in held.values()} == {gpu.torch_device.type}
    assert {value.dtype for value in held.values()} == {torch.float32}
