"""The surrogate that starts from the closed form: what it learns, from which rows, and what it says without any."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from caligo_surrogate.device import Device
from caligo_surrogate.landscape import EfficiencyLandscape
from caligo_surrogate.prior import DEEP, MARGIN_UNIT, ClosedForm, Constant, prior_of
from caligo_surrogate.rows import MIN_ROWS, Reading
from scipy.special import ndtr
from sklearn.metrics import brier_score_loss

from caligo.closed_form import expect
from caligo.errors import FailedPrecondition
from caligo.phases import Phase
from caligo.results import METRIC, ROW_DTYPE, ProtocolOutcome, Reason
from caligo.spec import GuardrailSpec, PhysicsSpec, ProtocolSpec, SpaceSpec, SurrogateSpec

PHYSICS, PROTOCOL = PhysicsSpec(), ProtocolSpec()
SPACE = SpaceSpec().resolve()
E_DET, ETA = 5, 4


def landscape(space=SPACE, physics=PHYSICS, **surrogate):
    spec = SurrogateSpec(**surrogate)
    return EfficiencyLandscape(space, spec, GuardrailSpec(enabled=False), physics, PROTOCOL, 7, Device("cpu"))


def device_unlike_the_closed_form(inputs):
    """Detectors that err more often and a channel that loses more than the campaign is told."""
    real = inputs.copy()
    real[:, E_DET] *= 1.67
    real[:, ETA] -= np.log10(1.5)
    return real


def runs(inputs, seed, device=lambda inputs: inputs, start=0):
    """Rows as a simulator gives them where runs follow the closed form's distribution for a device."""
    rng = np.random.default_rng(seed)
    run = expect(device(inputs), PHYSICS, PROTOCOL)
    margin = run.margin + run.sd * rng.standard_normal(len(inputs))
    fills, decodes = rng.random(len(inputs)) < run.filled, rng.random(len(inputs)) < run.decoded
    rows = np.zeros(len(inputs), ROW_DTYPE)
    rows["index"], rows["inputs"] = start + np.arange(len(inputs)), inputs
    rows["metrics"] = np.nan
    rows["metrics"][:, METRIC["margin"]] = np.where(fills, margin, np.minimum(0, margin))
    rows["outcome"] = ProtocolOutcome.SUCCESS
    for mask, outcome, reason in (
        (margin <= 0, ProtocolOutcome.FAILURE_SECURITY, Reason.PREDICTED_NEGATIVE_KEY),
        ((margin > 0) & ~decodes, ProtocolOutcome.FAILURE_RECONCILIATION, Reason.FRAME_LOST),
        (~fills, ProtocolOutcome.FAILURE_SECURITY, Reason.INSUFFICIENT_RAW),
    ):
        rows["outcome"][mask], rows["reason"][mask] = outcome, reason
    return rows


@pytest.fixture(scope="module")
def design(cliff):
    return cliff.design


@pytest.fixture(scope="module")
def held_out(design):
    return design(3000, seed=99)


def taught(rows, drain, **surrogate):
    made = landscape(**surrogate)
    made.observe(Phase.LHS, rows)
    _, summary = drain(made.fit(0.2))
    return made, summary


@pytest.fixture(scope="module")
def known(design, drain):
    return taught(runs(design(60, seed=1), seed=1), drain)


# --- what it says ---------------------------------------------------------------------------------------------------


def test_with_the_right_closed_form_a_few_runs_do_no_harm(known, held_out):
    """At 48 runs the constant prior is at several times the Brier score of the closed form alone."""
    rows = runs(held_out, seed=2)
    key = rows["outcome"] == ProtocolOutcome.SUCCESS
    alone = brier_score_loss(key, expect(held_out, PHYSICS, PROTOCOL).key)
    found = brier_score_loss(key, known[0].predict(held_out).key)
    assert found < 1.1 * alone + 5e-4


def test_a_device_that_differs_is_learned(design, held_out, drain):
    rows = runs(held_out, 2, device_unlike_the_closed_form)
    key = rows["outcome"] == ProtocolOutcome.SUCCESS
    alone = brier_score_loss(key, expect(held_out, PHYSICS, PROTOCOL).key)
    learned, summary = taught(runs(design(60, seed=1), 1, device_unlike_the_closed_form), drain)
    knows_nothing, _ = taught(runs(design(60, seed=1), 1, device_unlike_the_closed_form), drain, prior="constant")
    found = brier_score_loss(key, learned.predict(held_out).key)
    assert found < 0.3 * alone
    assert found < 0.5 * brier_score_loss(key, knows_nothing.predict(held_out).key)
    assert summary.validation.rmse < 0.6 * summary.validation.closed_form[0]


@pytest.mark.parametrize("device", [lambda inputs: inputs, device_unlike_the_closed_form])
def test_intervals_cover_fresh_rows(design, held_out, drain, device):
    learned, _ = taught(runs(design(150, seed=1), 1, device), drain)
    rows = runs(held_out, 2, device)
    measured = ~np.isin(rows["reason"], [Reason.INSUFFICIENT_RAW]) & (rows["metrics"][:, METRIC["margin"]] > 2 * DEEP)
    prediction = learned.predict(held_out)
    z = np.abs(rows["metrics"][:, METRIC["margin"]] - prediction.mean)[measured] / prediction.sd[measured]
    for share, quantile in ((0.5, 0.674), (0.9, 1.645), (0.95, 1.96)):
        assert np.mean(z < quantile) > share - 0.12


def test_probability_of_a_key_has_the_gate_in_it(known, held_out):
    made, _ = known
    prediction, run = made.predict(held_out), expect(held_out, PHYSICS, PROTOCOL)
    gate = run.filled * run.decoded
    np.testing.assert_allclose(prediction.key, gate * ndtr(prediction.mean / prediction.sd), atol=2e-3)
    assert (prediction.key[run.filled < 0.01] < 0.01).all()


def test_share_and_sides_follow(known):
    made, _ = known
    share, error = made.secure_fraction()
    assert abs(made.sides().mean() - share) < 0.02
    inputs = SPACE.from_unit(np.random.default_rng(0).random((20_000, 9)))
    inputs[:, 3] = 1 - 0.15 * (1 - np.sqrt((inputs[:, 3] - 0.85) / 0.15))
    alone = (expect(inputs, PHYSICS, PROTOCOL).key > 0.5).mean()
    assert abs(share - alone) < error + 0.02
    assert 0 < error < 0.03


def test_no_candidate_is_spent_where_the_answer_is_known(known):
    made, _ = known
    inputs = np.concatenate([made.propose(batch, 16, np.zeros((0, 9), np.float32)) for batch in range(6)])
    key = expect(inputs, PHYSICS, PROTOCOL).key
    assert ((key > 0.01) & (key < 0.99)).mean() >= 0.98


@pytest.mark.parametrize("physics", [PHYSICS.model_copy(update={"claim": claim}) for claim in ("stw09", "lupo2023")])
def test_other_claims_have_their_own_closed_form(physics, held_out):
    prior = ClosedForm(SPACE, physics, PROTOCOL)
    found = prior(torch.tensor(SPACE.to_unit(held_out[:50])))
    expected = expect(held_out[:50], physics, PROTOCOL)
    np.testing.assert_allclose(MARGIN_UNIT * found.mean, expected.margin, atol=1e-4)
    assert not np.allclose(expected.margin, expect(held_out[:50], PHYSICS, PROTOCOL).margin)


# --- which rows say what --------------------------------------------------------------------------------------------


def test_rows_that_say_nothing_about_the_margin_change_nothing_in_it(design, drain):
    """Part-frames, refused detections, the closed form's own rows, skipped ones, time-outs and faults."""
    plain = runs(design(80, seed=1), seed=1)
    other = runs(design(60, seed=2), seed=2, start=80)
    other["metrics"][:, METRIC["margin"]] = 0
    kinds = [
        (ProtocolOutcome.FAILURE_SECURITY, Reason.INSUFFICIENT_RAW),
        (ProtocolOutcome.FAILURE_SECURITY, Reason.DETECTION_INTERVAL),
        (ProtocolOutcome.SKIPPED_INFEASIBLE, Reason.CLOSED_FORM),
        (ProtocolOutcome.SKIPPED_PREDICTED_FAILURE, Reason.GUARDRAIL),
        (ProtocolOutcome.FAILURE_TIMEOUT, Reason.TIME_LIMIT),
        (ProtocolOutcome.FAILURE_ERROR, Reason.EXCEPTION),
    ]
    for i, (outcome, reason) in enumerate(kinds):
        other["outcome"][i::6], other["reason"][i::6] = outcome, reason
    query = design(50, seed=3)
    means = []
    for rows in (plain, np.concatenate([plain, other])):
        made = landscape()
        made.observe(Phase.LHS, rows)
        drain(made.fit())
        means.append(made.predict(query).mean)
    np.testing.assert_array_equal(*means)


def test_a_lost_frame_has_a_margin_and_no_key(design):
    rows = runs(design(40, seed=1), seed=1)
    rows["outcome"], rows["reason"] = ProtocolOutcome.FAILURE_RECONCILIATION, Reason.FRAME_LOST
    rows["metrics"][:, METRIC["margin"]] = 0.1
    assert Reading(SurrogateSpec(), SPACE, ClosedForm(SPACE, PHYSICS, PROTOCOL)).known(rows).all()


def test_far_below_the_cliff_there_is_nothing_to_learn(design):
    """How far below is no question of the cliff; that the closed form hoped for a key there is."""
    rows = runs(design(400, seed=1), seed=1)
    rows["outcome"], rows["reason"] = ProtocolOutcome.FAILURE_SECURITY, Reason.PREDICTED_NEGATIVE_KEY
    rows["metrics"][:, METRIC["margin"]] = -0.8
    reading = Reading(SurrogateSpec(), SPACE, ClosedForm(SPACE, PHYSICS, PROTOCOL))
    hopeful = expect(rows["inputs"], PHYSICS, PROTOCOL).margin > DEEP
    np.testing.assert_array_equal(reading.known(rows), hopeful)
    assert 50 < hopeful.sum() < 350
    np.testing.assert_array_equal(reading.lesson(rows[hopeful]), np.float32(2 * DEEP))
    np.testing.assert_array_equal(reading.target(rows[hopeful]), np.float32(-0.8))


def test_without_a_simulated_row_there_is_no_fit(design, drain):
    for prior in ("closed_form", "constant"):
        made = landscape(prior=prior)
        rows = runs(design(60, seed=1), seed=1)
        rows["outcome"] = ProtocolOutcome.SKIPPED_INFEASIBLE
        rows["outcome"][:20] = ProtocolOutcome.FAILURE_TIMEOUT
        made.observe(Phase.LHS, rows)
        with pytest.raises(FailedPrecondition, match=r"simulated|at least"):
            drain(made.fit())


@pytest.mark.parametrize("margins", [0, 1, MIN_ROWS - 1])
def test_where_hardly_a_row_has_a_margin_the_closed_form_stands(design, drain, margins, held_out):
    made = landscape()
    rows = runs(design(60, seed=1), seed=1)
    rows = rows[rows["reason"] != Reason.INSUFFICIENT_RAW]
    rows["outcome"][margins:], rows["reason"][margins:] = ProtocolOutcome.FAILURE_SECURITY, Reason.INSUFFICIENT_RAW
    made.observe(Phase.LHS, rows)
    _, summary = drain(made.fit(0.2))
    assert summary.rows <= margins
    alone = expect(held_out, PHYSICS, PROTOCOL)
    assert np.abs(made.predict(held_out).key - alone.key).mean() < 0.02
    assert made.propose(0, 4, held_out[:0]).shape == (4, 9)
    assert 0 < made.secure_fraction()[0] < 1


def test_the_efficiency_is_not_decided_by_rounding(design, held_out, drain):
    """Where most rows lie exactly at 0, the share of the space with a key is no coin."""
    inputs = design(64, seed=1)
    rows = runs(inputs, seed=1)
    rows["outcome"], rows["reason"] = ProtocolOutcome.FAILURE_SECURITY, Reason.PREDICTED_NEGATIVE_KEY
    rows["metrics"][:, METRIC["net_efficiency"]] = 0
    best = np.argsort(-expect(inputs, PHYSICS, PROTOCOL).margin)[:3]
    rows["outcome"][best], rows["metrics"][best, METRIC["net_efficiency"]] = ProtocolOutcome.SUCCESS, 0.05
    made, _ = taught(rows, drain, target="efficiency")
    assert made.secure_fraction()[0] < 0.2
    assert (made.predict(inputs[best]).key > 0.5).all()


# --- which prior ----------------------------------------------------------------------------------------------------


def test_the_prior_is_what_is_asked_for_where_it_applies():
    for spec, physics, expected in (
        (SurrogateSpec(), PHYSICS, ClosedForm),
        (SurrogateSpec(prior="constant"), PHYSICS, Constant),
        (SurrogateSpec(target="efficiency"), PHYSICS, Constant),
        (SurrogateSpec(), PhysicsSpec.model_construct(claim="release-0.1/lupo2023"), Constant),
    ):
        assert isinstance(prior_of(spec, SPACE, physics, PROTOCOL), expected)


def test_a_state_of_another_prior_is_refused(known):
    from caligo.errors import InvalidArgument

    with pytest.raises(InvalidArgument, match="metadata"):
        landscape(prior="constant").load(*known[0].export())


def test_a_state_comes_back_whole(known, design, held_out):
    again = landscape()
    again.observe(Phase.LHS, runs(design(60, seed=1), seed=1))
    again.load(*known[0].export())
    np.testing.assert_array_equal(again.predict(held_out[:50]).mean, known[0].predict(held_out[:50]).mean)
    np.testing.assert_array_equal(again.propose(1, 3, held_out[:2]), known[0].propose(1, 3, held_out[:2]), strict=True)
