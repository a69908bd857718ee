"""The guardrail: whom it skips, what its probabilities mean, and what it knows of its own errors (design 7.3)."""

from __future__ import annotations

import numpy as np
import pytest
from caligo_surrogate.device import Device
from caligo_surrogate.guardrail import MIN_OF_EACH, MOST_ROWS, Candidates, Guardrail, Mode
from caligo_surrogate.guardrail.agreement import disagreement
from caligo_surrogate.landscape import EfficiencyLandscape
from numpy.typing import NDArray
from structlog.testing import capture_logs

from caligo import screening
from caligo.closed_form import expect
from caligo.phases import Phase
from caligo.results import METRIC, ProtocolOutcome, Reason
from caligo.screening import Verdict
from caligo.space import SYMBOLS
from caligo.spec import GuardrailSpec, PhysicsSpec, ProtocolSpec, SurrogateSpec

CLASSIFIERS = ["kernel_logistic", "random_forest"]


@pytest.fixture(scope="module")
def design(cliff):
    """Rows of a Latin hypercube in unit coordinates."""
    return lambda n, seed: cliff.space.to_unit(cliff.design(n, seed))


def made(unit, failed, audited=None, infeasible=None, **spec) -> Guardrail:
    return Guardrail(
        GuardrailSpec(**spec),
        7,
        screening.refused("there is none in these tests"),
        seen(unit),
        failed,
        np.zeros(len(unit), dtype=bool) if audited is None else audited,
        seen(unit[:0] if infeasible is None else infeasible),
    )


def seen(unit: NDArray[np.float32]) -> Candidates:
    """Candidates of which the closed form says nothing."""
    return Candidates(unit, np.zeros(len(unit)))


def with_closed_form(unit: NDArray[np.float32]) -> Candidates:
    """Candidates whose log-odds of failure the closed form knows, too high by half."""
    return Candidates(unit, -12.0 * (unit[:, 3] - 0.5).astype(np.float64))


def deep(n: int) -> NDArray[np.float32]:
    """Rows that are dead for sure."""
    return np.tile(np.float32([0.5, 0.5, 0.5, 0.02, 0.5, 0.5, 0.5, 0.5, 0]), (n, 1))


def dead(unit: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Rows of low fidelity give no key, and the others do."""
    return unit[:, 3] < 0.5


def by_chance(unit: NDArray[np.float32], steepness: float, seed: int) -> NDArray[np.bool_]:
    """Failures of a probability that falls with the fidelity."""
    return np.random.default_rng(seed).random(len(unit)) < 1 / (1 + np.exp(steepness * (unit[:, 3] - 0.5)))


@pytest.fixture(scope="module", params=CLASSIFIERS)
def guard(request, design):
    unit = design(1500, 1)
    return made(unit, dead(unit), classifier=request.param)


# --- verdicts -------------------------------------------------------------------------------------------------------


def test_known_dead_samples_are_pruned(guard, design):
    unit = design(2000, 2)
    probability = guard.failure_probability(seen(unit))
    verdict = guard.verdicts(seen(unit), np.arange(2000))
    low = unit[:, 3] < 0.25
    assert probability.dtype == np.float32
    assert verdict.dtype == np.uint8
    assert (probability[low] > 0.99).mean() > 0.97
    assert (verdict[low] == Verdict.SKIP).mean() > 0.95
    assert (verdict[~dead(unit)] == Verdict.SIMULATE).mean() > 0.99


def test_only_what_is_above_the_threshold_is_skipped_or_audited(guard, design):
    unit = design(3000, 3)
    above = guard.failure_probability(seen(unit)) > guard.state.threshold
    verdict = guard.verdicts(seen(unit), np.arange(3000))
    assert 300 < above.sum() < 2700
    np.testing.assert_array_equal(verdict != Verdict.SIMULATE, above)
    assert set(verdict[above]) == {Verdict.SKIP, Verdict.AUDIT}


def test_audit_spares_its_share_by_index(guard):
    index = np.arange(10_000, dtype=np.int64)
    verdict = guard.verdicts(seen(deep(10_000)), index)
    assert 0.016 < (verdict == Verdict.AUDIT).mean() < 0.024
    order = np.random.default_rng(0).permutation(10_000)
    np.testing.assert_array_equal(guard.verdicts(seen(deep(10_000)), index[order]), verdict[order])
    for i in (0, 1023, 1024, int(np.flatnonzero(verdict == Verdict.AUDIT)[-1])):
        assert guard.verdicts(seen(deep(1)), index[i : i + 1])[0] == verdict[i]


@pytest.mark.parametrize(("fraction", "verdict"), [(0.0, Verdict.SKIP), (1.0, Verdict.AUDIT)])
def test_audit_of_none_and_of_all(design, fraction, verdict):
    unit = design(1500, 1)
    guardrail = made(unit, dead(unit), audit_fraction=fraction)
    assert (guardrail.verdicts(seen(deep(100)), np.arange(100)) == verdict).all()


def test_no_candidates_no_verdicts(guard):
    nothing = seen(np.zeros((0, 9), dtype=np.float32))
    assert guard.failure_probability(nothing).shape == (0,)
    assert guard.verdicts(nothing, np.zeros(0, dtype=np.int64)).shape == (0,)


# --- probabilities --------------------------------------------------------------------------------------------------


def test_evaluation_agrees_with_scikit_learn(guard, design):
    """The trained numbers, evaluated here, and the estimator that they were taken from decide alike."""
    unit = design(3000, 3)
    features = with_closed_form(unit).features()
    ours = guard.classifier.log_odds(features)
    inputs = features.astype(np.float64) if hasattr(guard.classifier.estimator, "steps") else features
    theirs = guard.classifier.estimator.predict_proba(inputs)[:, 1]
    if hasattr(guard.classifier.estimator, "n_estimators"):  # half a vote for either class
        trees = guard.classifier.estimator.n_estimators
        theirs = (trees * theirs + 0.5) / (trees + 1)
    np.testing.assert_allclose(1 / (1 + np.exp(-ours)), theirs, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(ours > 0, theirs > 0.5)
    for i in range(0, 3000, 300):
        np.testing.assert_allclose(guard.classifier.log_odds(features[i : i + 1])[0], ours[i], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_probability_means_what_it_says(design, classifier):
    """On noisy outcomes, of the rows given a probability as many fail as it says."""
    unit = design(800, 1)
    guardrail = made(unit, by_chance(unit, 8, 1), classifier=classifier)
    unit = design(8000, 2)
    failed, probability = by_chance(unit, 8, 2), guardrail.failure_probability(seen(unit))
    for low, high in ((0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1)):
        chosen = (probability >= low) & (probability <= high)
        assert chosen.sum() > 200
        assert failed[chosen].mean() == pytest.approx(probability[chosen].mean(), abs=0.08)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_infeasible_rows_teach_but_do_not_calibrate(design, classifier):
    """A corner that only infeasible rows occupy is called dead; elsewhere as many fail as the probability says."""
    unit = design(2000, 1)
    corner = unit[:, 5] > 0.6
    failed = by_chance(unit, 12, 1)
    guardrail = made(unit[~corner], failed[~corner], infeasible=unit[corner], classifier=classifier)
    query = design(4000, 2)
    probability = guardrail.failure_probability(seen(query))
    assert (probability[query[:, 5] > 0.7] > 0.9).mean() > 0.9
    open_ = query[:, 5] < 0.6
    assert probability[open_].mean() == pytest.approx(by_chance(query, 12, 2)[open_].mean(), abs=0.05)


def test_same_rows_same_guardrail(design):
    unit = design(400, 1)
    first, second = (made(unit, by_chance(unit, 8, 1)).failure_probability(seen(unit)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


# --- what it knows of its errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [0, MIN_OF_EACH - 1, 200 - MIN_OF_EACH + 1, 200])
def test_silent_with_too_few_of_either_class(design, failures):
    unit = design(200, 1)
    guardrail = made(unit, np.arange(200) < failures, infeasible=unit)
    assert guardrail.state.mode is Mode.TOO_FEW_ROWS
    assert not guardrail.is_active
    assert not guardrail.failure_probability(seen(unit)).any()
    assert (guardrail.verdicts(seen(unit), np.arange(200)) == Verdict.SIMULATE).all()


def test_switched_off(design):
    unit = design(200, 1)
    guardrail = made(unit, dead(unit), enabled=False)
    assert guardrail.state.mode is Mode.DISABLED
    assert not guardrail.is_active
    assert (guardrail.verdicts(seen(unit), np.arange(200)) == Verdict.SIMULATE).all()


@pytest.mark.parametrize("allowed", [0.01, 0.02, 0.05])
def test_evidence_decides_when_it_begins(design, allowed):
    """Rows above the threshold without a key among them prove little while they are few."""
    active = []
    for n in (150, 400, 1000):
        unit = design(n, 1)
        guardrail = made(unit, dead(unit), max_false_skip_rate=allowed)
        state = guardrail.state
        assert state.false_skips == 0
        assert state.false_skip_bound == screening.upper_bound(state.evidence, 0)
        assert guardrail.is_active == (state.false_skip_bound <= allowed)
        assert state.mode is (Mode.AS_SPECIFIED if guardrail.is_active else Mode.UNPROVEN)
        verdict = guardrail.verdicts(seen(deep(n)), np.arange(n))
        assert (verdict == Verdict.SKIP).any() == guardrail.is_active
        active.append(guardrail.is_active)
    assert not active[0]
    assert active[-1]


def test_bound_is_that_of_the_unseen_rows_above_the_threshold(design):
    unit = design(1000, 1)
    state = made(unit, by_chance(unit, 12, 1), threshold=0.8, max_false_skip_rate=1).state
    n, k = state.evidence, state.false_skips
    assert 0 < k < n
    assert state.false_skip_bound == screening.upper_bound(n, k)


def test_bound_covers_the_truth(design):
    """Of twenty guardrails on noisy rows, keys above the threshold are as rare as the bound says in at least 17."""
    fresh = design(10_000, 99)
    covered = 0
    for seed in range(20):
        unit = design(400, seed)
        guardrail = made(unit, by_chance(unit, 12, seed), threshold=0.9, max_false_skip_rate=1)
        above = guardrail.failure_probability(seen(fresh)) > guardrail.state.threshold
        truth = (1 / (1 + np.exp(-12 * (fresh[above, 3] - 0.5)))).mean()
        covered += truth <= guardrail.state.false_skip_bound
    assert covered >= 17


def test_threshold_is_raised_where_the_rate_is_too_high(design):
    unit = design(3000, 1)
    failed = by_chance(unit, 25, 1)
    asked, raised = (made(unit, failed, threshold=0.7, max_false_skip_rate=rate) for rate in (1, 0.01))
    assert asked.state.mode is Mode.AS_SPECIFIED
    assert asked.state.false_skip_bound > 0.01
    assert raised.state.mode is Mode.RAISED
    assert raised.state.threshold > 0.7
    assert raised.state.false_skip_bound <= 0.01
    assert raised.state.evidence < asked.state.evidence
    fresh = design(10_000, 2)
    skipped = raised.verdicts(seen(fresh), np.arange(10_000)) == Verdict.SKIP
    assert skipped.mean() > 0.1
    assert (~by_chance(fresh, 25, 2))[skipped].mean() < 0.01


def test_off_where_no_threshold_will_do_and_says_so(design):
    """Keys are sprinkled over the dead part, too: nothing is sure enough there."""
    unit = design(1500, 1)
    failed = dead(unit) & (np.random.default_rng(0).random(1500) > 0.04)
    with capture_logs() as logs:
        guardrail = made(unit, failed, threshold=0.9)
    assert guardrail.state.mode is Mode.UNPROVEN
    assert guardrail.state.threshold == 0.9
    assert guardrail.state.evidence > 400
    assert guardrail.state.false_skip_bound > 0.01
    assert (guardrail.verdicts(seen(unit), np.arange(1500)) == Verdict.SIMULATE).all()
    (entry,) = [entry for entry in logs if entry["event"] == "guardrail"]
    assert entry["mode"] == "unproven"
    assert entry["false_skip_bound"] == guardrail.state.false_skip_bound


def test_audits_outvote_the_design(design):
    """Four keys in ten audits refute a rate of 5 %, however well the design's rows speak of it."""
    unit = np.concatenate([design(1500, 1), design(400, 2)])
    failed = dead(unit)
    audited = np.zeros(len(unit), dtype=bool)
    audited[1500 + np.flatnonzero(unit[1500:, 3] < 0.2)[:10]] = True
    keys = np.flatnonzero(audited)[:4]
    failed[keys] = False
    unheard, heard = (
        made(unit, failed, audited=which, threshold=0.9, max_false_skip_rate=0.05)
        for which in (np.zeros_like(audited), audited)
    )
    assert unheard.state.mode is Mode.AS_SPECIFIED
    assert unheard.state.false_skip_bound < 0.05
    assert unheard.state.audits == 0
    assert heard.state.mode is not Mode.AS_SPECIFIED
    assert screening.lower_bound(10, 4) > 0.05
    if heard.is_active:  # with what is left of the audits, which no longer refutes 5 %
        assert heard.state.threshold > 0.9
        assert screening.lower_bound(heard.state.audits, heard.state.false_audits) <= 0.05


def test_audits_that_agree_change_nothing(design):
    unit = design(1500, 1)
    audited = unit[:, 3] < 0.1
    plain, with_audits = made(unit, dead(unit)), made(unit, dead(unit), audited=audited)
    assert with_audits.state.audits > 50
    assert with_audits.state.false_audits == 0
    assert with_audits.state.mode is plain.state.mode
    assert with_audits.state.false_skip_bound == pytest.approx(plain.state.false_skip_bound, rel=0.1)


def test_of_many_rows_a_choice_is_learnt_from_and_every_audit(design):
    unit = design(3 * MOST_ROWS, 1)
    audited = unit[:, 3] < 0.05
    guardrail = made(unit, dead(unit), audited=audited, infeasible=unit)
    assert len(guardrail.classifier.unseen_log_odds) == 2 * MOST_ROWS
    assert guardrail.state.audits == audited.sum()
    assert guardrail.is_active


def test_few_of_a_class_among_many_rows(design):
    """A choice of rows that leaves too few keys is treated like rows that have too few."""
    unit = design(4 * MOST_ROWS, 1)
    failed = np.ones(len(unit), dtype=bool)
    failed[: MIN_OF_EACH + 5] = False
    assert made(unit, failed).state.mode is Mode.TOO_FEW_ROWS


def test_the_classifier_learns_from_the_closed_form(design):
    """With few rows in nine dimensions the closed form's log-odds say more than the coordinates do."""
    unit, fresh = design(60, 1), design(4000, 2)
    failed = by_chance(unit, 8, 1)
    spec = GuardrailSpec()
    silent, none = screening.refused("there is none in these tests"), np.zeros(60, dtype=bool)

    def error(candidates):
        guardrail = Guardrail(spec, 7, silent, candidates(unit), failed, none, candidates(unit[:0]))
        return np.mean((guardrail.failure_probability(candidates(fresh)) - by_chance(fresh, 8, 2)) ** 2)

    assert error(with_closed_form) < 0.93 * error(seen)


# --- the closed form ------------------------------------------------------------------------------------------------


PHYSICS, PROTOCOL = PhysicsSpec(), ProtocolSpec()


@pytest.fixture(scope="module")
def runs(cliff):
    """Rows with the margins of a device whose detectors err `e_det` times as often as is told."""

    def make(n: int, seed: int, e_det: float = 1.0):
        told = cliff.design(n, seed)
        real = told.copy()
        real[:, SYMBOLS.index("e_det")] *= np.float32(e_det)
        run, rng = expect(real, PHYSICS, PROTOCOL), np.random.default_rng(seed)
        rows = cliff.rows(told)
        margin = run.margin + run.sd * rng.standard_normal(n)
        has_key = (margin > 0) & (rng.random(n) < run.filled * run.decoded)
        rows["metrics"][:, METRIC["margin"]] = margin
        rows["outcome"] = np.where(has_key, ProtocolOutcome.SUCCESS, ProtocolOutcome.FAILURE_SECURITY)
        rows["reason"] = np.where(has_key, Reason.NONE, Reason.DEATH_VALLEY)
        return rows

    return make


def closed_form_landscape(cliff, rows) -> EfficiencyLandscape:
    landscape = EfficiencyLandscape(cliff.space, SurrogateSpec(), GuardrailSpec(), PHYSICS, PROTOCOL, 7, Device("cpu"))
    landscape.observe(Phase.LHS, rows)
    return landscape


def test_a_simulator_like_the_closed_form_is_not_called_another(runs):
    refused = [disagreement(runs(60, seed), PHYSICS, PROTOCOL) for seed in range(100)]
    assert refused.count(None) >= 99


def test_a_device_that_nobody_was_told_of_is_noticed(runs):
    assert all(disagreement(runs(60, seed, e_det=1.67), PHYSICS, PROTOCOL) for seed in range(20))
    assert disagreement(runs(60, 1)[:0], PHYSICS, PROTOCOL) is None


def test_the_closed_form_has_evidence_from_the_first_rows_on_and_leaves_proposals_alone(cliff, runs):
    landscape = closed_form_landscape(cliff, runs(24, 1))
    state = landscape.guardrail().state
    assert state.mode is Mode.CLOSED_FORM
    assert state.is_active and not state.table_refused
    assert state.false_skip_bound <= 0.01
    inputs = cliff.design(3000, 5)
    probability, verdict = landscape.screen(inputs, np.arange(3000))
    key = expect(inputs, PHYSICS, PROTOCOL).key
    np.testing.assert_allclose(probability, 1 - key, atol=1e-6)
    # Rows of phase 1 are skipped by it (tests/orchestrator/test_screening.py); what the surrogate proposes is not.
    assert (verdict == Verdict.SIMULATE).all()


def test_another_device_makes_it_start_from_nothing(cliff, runs):
    state = closed_form_landscape(cliff, runs(60, 1, e_det=1.67)).guardrail().state
    assert state.mode in (Mode.UNPROVEN, Mode.TOO_FEW_ROWS)
    assert "further from the closed form" in state.table_refused


def test_rows_above_the_threshold_join_the_evidence(cliff, runs):
    few, many = (closed_form_landscape(cliff, runs(n, 1)).guardrail().state for n in (24, 400))
    assert many.audits > few.audits
    assert many.evidence - few.evidence == many.audits - few.audits
    assert many.false_audits <= 3
