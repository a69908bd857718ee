"""The acquisition: values and gradients of every rule, and the batches that they choose."""

from __future__ import annotations

import weakref
from typing import get_args

import numpy as np
import pytest
import torch
from caligo_surrogate import acquisition
from caligo_surrogate.acquisition import ExpectedBrier, JointStraddle, Straddle, TargetedError, qStraddle
from caligo_surrogate.device import Device
from caligo_surrogate.kernel import Matern
from caligo_surrogate.posterior import FactorPosterior, condition
from caligo_surrogate.solvers import Numerics, Solver
from scipy.stats import chi2, kstest, norm
from sklearn.gaussian_process.kernels import Matern as ReferenceMatern

from caligo.errors import FailedPrecondition
from caligo.seeds import Phase
from caligo.space import PARAMETERS, STRATEGY_COLUMN
from caligo.spec import BatchRule, SpaceSpec

NOTHING = np.zeros((0, 9), dtype=np.float32)
RULES = get_args(BatchRule)
SCALES = np.array([0.8, 1.1, 1.4, 0.6, 0.9, 3.0, 4.0, 0.8, 2.0])
VARIANCE, NOISE, LEVEL, WEIGHT = 1.3, 0.02, 0.1, 1.96


class Reference:
    """A Gaussian process in float64 on scikit-learn's kernel, with nothing clever."""

    def __init__(self, x, y):
        self.x, self.y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        self.kernel = ReferenceMatern(SCALES, nu=2.5)
        self.inverse = np.linalg.inv(self.k(self.x, self.x) + NOISE * np.eye(len(self.x)))

    def k(self, a, b):
        return VARIANCE * self.kernel(a, b)

    def moments(self, x):
        k = self.k(np.asarray(x, dtype=np.float64), self.x)
        return k @ self.inverse @ self.y, VARIANCE - np.sum(k @ self.inverse * k, axis=1)

    def given(self, x, y):
        return Reference(np.vstack([self.x, x]), np.append(self.y, y))


def conditioned(x, y, solver="cholesky"):
    matern = Matern(torch.tensor(SCALES, dtype=torch.float32), VARIANCE)
    choice = Solver(solver, Device("cpu"), Numerics())
    inputs, targets = torch.tensor(x), torch.tensor(y, dtype=torch.float32)
    return condition(matern, NOISE, 0.0, inputs, targets, choice, choice.posterior(len(x)).plan, seed=0)


@pytest.fixture(scope="module")
def rows(cliff):
    unit = cliff.space.to_unit(cliff.design(100, seed=2))
    return unit, 4 * cliff.margin(unit)


@pytest.fixture(scope="module")
def posterior(rows):
    return conditioned(*rows)


@pytest.fixture(scope="module")
def reference(rows):
    return Reference(*rows)


@pytest.fixture(scope="module")
def points(cliff):
    return torch.tensor(cliff.space.to_unit(cliff.design(6, seed=11)))


@pytest.fixture(scope="module")
def integration(cliff):
    return torch.tensor(cliff.space.to_unit(cliff.design(40, seed=12)))


@pytest.fixture(scope="module")
def sweep(cliff):
    return torch.tensor(cliff.space.to_unit(cliff.design(1024, seed=13)))


@pytest.fixture(scope="module")
def box(space):
    return acquisition.search_box(space, torch.zeros(0))


# --- values ---------------------------------------------------------------------------------------------------------


def test_straddle_is_its_formula(posterior, reference, points):
    value = Straddle(posterior, LEVEL, WEIGHT)(points.unsqueeze(1))
    mean, variance = reference.moments(points)
    np.testing.assert_allclose(value, WEIGHT * np.sqrt(variance) - np.abs(mean - LEVEL), rtol=1e-3, atol=1e-4)
    assert value.dtype == torch.float32


def test_joint_straddle_of_one_is_the_straddle(posterior, points):
    one = points.unsqueeze(1)
    torch.testing.assert_close(
        JointStraddle(posterior, LEVEL, WEIGHT)(one), Straddle(posterior, LEVEL, WEIGHT)(one), atol=1e-4, rtol=1e-4
    )


def test_joint_straddle_is_one_point_after_another(posterior, points):
    """The sum over the batch's Cholesky factor equals conditioning on each point before the next is valued."""
    total, believed = torch.zeros(()), posterior
    for point in points[:4]:
        total = total + Straddle(believed, LEVEL, WEIGHT)(point[None, None]).squeeze()
        believed = believed.believe(point[None])
    joint = JointStraddle(posterior, LEVEL, WEIGHT)(points[:4].unsqueeze(0)).squeeze()
    torch.testing.assert_close(joint, total, atol=1e-3, rtol=1e-3)


def test_the_same_point_twice_counts_once(posterior, points):
    acquire = JointStraddle(posterior, LEVEL, WEIGHT)
    twice = acquire(points[:1].repeat(2, 1).unsqueeze(0))
    once = acquire(points[:1].unsqueeze(0))
    distance = (posterior.mean(points[:1]) - LEVEL).abs()
    assert float(twice - once + distance) < 0.7 * float(once + distance)


def test_monte_carlo_straddle_of_one_is_the_straddle(posterior, points):
    one = points.unsqueeze(1)
    expected = Straddle(posterior, LEVEL, WEIGHT)(one)
    torch.testing.assert_close(qStraddle(posterior, LEVEL, WEIGHT, 3, 8192)(one), expected, atol=5e-3, rtol=0)


def test_monte_carlo_straddle_of_a_batch_is_the_expected_maximum(posterior, points):
    value = qStraddle(posterior, LEVEL, WEIGHT, 3, 8192)(points[:3].unsqueeze(0))
    mean, covariance = (moment.numpy().astype(np.float64) for moment in posterior.joint(points[:3]))
    samples = np.random.default_rng(0).multivariate_normal(mean, covariance, 400_000)
    spread = WEIGHT * np.sqrt(np.pi / 2) * np.abs(samples - mean)
    expected = np.mean(np.max(spread - np.abs(mean - LEVEL), axis=1))
    assert float(value) == pytest.approx(expected, abs=0.01)


def test_monte_carlo_straddle_counts_pending_points_in(posterior, points):
    whole = qStraddle(posterior, LEVEL, WEIGHT, 3, 64)(points[:4].unsqueeze(0))
    acquire = qStraddle(posterior, LEVEL, WEIGHT, 3, 64)
    acquire.set_X_pending(points[2:4])
    torch.testing.assert_close(acquire(points[:2].unsqueeze(0)), whole)


def test_targeted_error_is_what_conditioning_anew_takes_off(posterior, reference, points, integration):
    mean, variance = reference.moments(integration)
    density = norm.pdf(LEVEL, mean, np.sqrt(variance))
    expected = []
    for point in points.numpy():
        expected_run = reference.moments(point[None])[0]
        _, after = reference.given(point[None], expected_run).moments(integration)
        expected.append(np.mean(density * (variance - after)))
    value = TargetedError(posterior, LEVEL, integration)(points.unsqueeze(1))
    np.testing.assert_allclose(value, expected, rtol=2e-3)


def test_expected_brier_is_its_mean_over_the_outcomes_of_the_run(posterior, reference, points, integration):
    """Against conditioning on 60 outcomes of the run each, by Gauss-Hermite quadrature."""
    nodes, shares = np.polynomial.hermite_e.hermegauss(60)

    def brier(process):
        mean, variance = process.moments(integration)
        p = norm.sf(LEVEL, mean, np.sqrt(variance + NOISE))
        return np.mean(p * (1 - p))

    expected = []
    for point in points[:3].numpy():
        mean, variance = reference.moments(point[None])
        outcomes = mean + np.sqrt(variance + NOISE) * nodes
        after = [brier(reference.given(point[None], outcome)) for outcome in outcomes]
        expected.append(brier(reference) - np.average(after, weights=shares))
    value = ExpectedBrier(posterior, LEVEL, integration)(points[:3].unsqueeze(1))
    np.testing.assert_allclose(value, expected, rtol=2e-3)


def test_expected_brier_of_a_run_that_tells_all(points):
    """A noiseless run at the only point of the integral, on the level: 1/4 now, 0 afterwards."""
    nothing_known = conditioned(np.full((8, 9), 60, dtype=np.float32), np.zeros(8))
    nothing_known.matrix.__dict__["noise"] = 1e-9
    value = ExpectedBrier(nothing_known, 0.0, points[:1])(points[:1].unsqueeze(1))
    assert float(value) == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize("kind", [Straddle, JointStraddle, qStraddle, TargetedError, ExpectedBrier])
def test_gradient_is_that_of_finite_differences(posterior, points, integration, kind):
    make = {
        Straddle: lambda: Straddle(posterior, LEVEL, WEIGHT),
        JointStraddle: lambda: JointStraddle(posterior, LEVEL, WEIGHT),
        qStraddle: lambda: qStraddle(posterior, LEVEL, WEIGHT, 3, 32),
        TargetedError: lambda: TargetedError(posterior, LEVEL, integration.double()),
        ExpectedBrier: lambda: ExpectedBrier(posterior, LEVEL, integration.double()),
    }
    acquire = make[kind]()
    q = 3 if kind in (JointStraddle, qStraddle) else 1
    batch = points[:q].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: acquire(x.unsqueeze(0)), batch, eps=1e-6, atol=1e-6, rtol=1e-4)


def test_randomized_weights_are_roots_of_chi_squared_draws():
    weights = np.array(acquisition.randomized_weights(4000, seed=5))
    assert kstest(weights**2, chi2(2).cdf).pvalue > 0.01
    assert acquisition.randomized_weights(4, seed=5) == acquisition.randomized_weights(4, seed=5)
    assert acquisition.randomized_weights(4, seed=6) != acquisition.randomized_weights(4, seed=5)


# --- batches --------------------------------------------------------------------------------------------------------


def chosen(posterior, box, sweep, size, rule, seed=4):
    return acquisition.propose(posterior, box, sweep, size, rule, LEVEL, WEIGHT, seed)


def test_the_first_point_is_better_than_the_sweep_and_than_its_twin(posterior, box, sweep):
    """Ascents improve on the best of the sweep, and the other strategy has been tried."""
    (point,) = chosen(posterior, box, sweep, 1, "straddle")
    twin = point.clone()
    twin[STRATEGY_COLUMN] = 1 - twin[STRATEGY_COLUMN]
    acquire = Straddle(posterior, LEVEL, WEIGHT)
    value, other = acquire(torch.stack([point, twin]).unsqueeze(1))
    assert value >= acquire(sweep.unsqueeze(1)).max()
    assert value >= other


def test_strategies_of_a_joint_batch_are_searched(posterior, box, sweep):
    """A sweep over one strategy alone does not keep the batch from the other: no single exchange would be better."""
    sweep = sweep.clone()
    sweep[:, STRATEGY_COLUMN] = 0
    batch = chosen(posterior, box, sweep, 4, "joint_straddle")
    twins = batch.repeat(4, 1, 1)
    twins[range(4), range(4), STRATEGY_COLUMN] = 1 - batch[:, STRATEGY_COLUMN]
    acquire = JointStraddle(posterior, LEVEL, WEIGHT)
    assert acquire(batch.unsqueeze(0)) >= acquire(twins).max()


def test_a_sequential_batch_begins_with_the_batch_of_one(posterior, box, sweep):
    for rule in ("straddle", "timse", "sur"):
        torch.testing.assert_close(chosen(posterior, box, sweep, 3, rule)[:1], chosen(posterior, box, sweep, 1, rule))


def test_a_sequential_batch_goes_on_as_if_its_first_points_were_pending(posterior, box, sweep):
    first, second = chosen(posterior, box, sweep, 2, "straddle")
    believed = posterior.believe(first.unsqueeze(0))
    began = Straddle(posterior, LEVEL, WEIGHT)(sweep.unsqueeze(1)).argmax()
    (expected,) = chosen(believed, box, torch.cat([sweep[:began], sweep[began + 1 :]]), 1, "straddle")
    torch.testing.assert_close(second, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("rule", ["timse", "sur"])
def test_a_batch_for_an_integral_takes_off_more_than_other_batches(posterior, box, sweep, rule):
    """Judged by the targeted error that is left on points of its own after the whole batch."""
    points = sweep[512:]

    def left(batch):
        believed = posterior.believe(batch)
        density = acquisition.level_density(*posterior.marginal(points), LEVEL)
        return float((density * believed.marginal(points)[1]).mean())

    own = left(chosen(posterior, box, sweep[:512], 4, rule))
    assert own < min(left(sweep[i : i + 4]) for i in range(0, 400, 4))
    assert own < left(chosen(posterior, box, sweep[:512], 4, "straddle"))


def test_a_batch_keeps_no_more_posteriors_than_it_needs(posterior, box, sweep, monkeypatch):
    """With many rows they are what fills the memory: each believed point makes another."""
    made, alive = [], []
    believe = FactorPosterior.believe

    def counted(self, pending):
        believed = believe(self, pending)
        made.append(weakref.ref(believed))
        alive.append(sum(one() is not None for one in made))
        return believed

    monkeypatch.setattr(FactorPosterior, "believe", counted)
    chosen(posterior, box, sweep[:256], 8, "sur")
    assert len(made) == 8
    assert max(alive) <= 3


def test_rules_that_integrate_give_way_where_there_is_no_factor(rows, box, sweep):
    iterative = conditioned(*rows, solver="cg")
    expected = chosen(iterative, box, sweep[:256], 2, acquisition.RULE_WITHOUT_FACTOR)
    for rule in ("timse", "sur"):
        assert torch.equal(chosen(iterative, box, sweep[:256], 2, rule), expected)


def nearest(unit):
    distance = np.linalg.norm(unit[:, None] - unit[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    return distance.min()


@pytest.fixture(scope="module")
def by_rule(fitted, make):
    """Landscapes that have learnt the same 200 rows and choose by different rules."""
    tensors, metadata = fitted.export()

    def with_rule(rule):
        landscape = make(200, acquisition=rule)
        landscape.load(tensors, metadata)
        return landscape

    return {rule: with_rule(rule) for rule in RULES}


@pytest.mark.parametrize("rule", RULES)
def test_proposals_lie_in_the_space_and_apart(by_rule, space, rule):
    inputs = by_rule[rule].propose(0, 8, NOTHING)
    assert inputs.dtype == np.float32
    assert inputs.shape == (8, 9)
    low, high = space.model_bounds().astype(np.float32)
    assert ((inputs >= low) & (inputs <= high)).all()
    assert set(inputs[:, STRATEGY_COLUMN]) <= {0.0, 1.0}
    assert nearest(space.to_unit(inputs)) > 0.1


@pytest.mark.parametrize("rule", RULES)
def test_pending_points_are_respected(by_rule, space, rule):
    first = by_rule[rule].propose(3, 4, NOTHING)
    second = by_rule[rule].propose(3, 4, first)
    assert nearest(space.to_unit(np.concatenate([first, second]))) > 0.1


@pytest.mark.parametrize("rule", RULES)
def test_same_batch_same_proposal(by_rule, rule):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    expected = by_rule[rule].propose(2, 3, NOTHING)
    torch.testing.assert_close(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002

    torch.rand(1)
    np.testing.assert_array_equal(by_rule[rule].propose(2, 3, NOTHING), expected)
    assert not np.array_equal(by_rule[rule].propose(4, 3, NOTHING), expected)


def test_same_rows_in_another_order_same_proposal(fitted, cliff, make, drain):
    shuffled = make()
    rows = np.random.default_rng(0).permutation(cliff.rows(cliff.design(200, seed=1)))
    for part in np.array_split(rows, 7):
        shuffled.observe(Phase.LHS, part)
    drain(shuffled.fit())
    np.testing.assert_array_equal(shuffled.propose(2, 5, NOTHING), fitted.propose(2, 5, NOTHING))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("blind_fraction", [0.0, 1.0])
def test_fixed_parameters_stay_fixed(cliff, make, drain, rule, blind_fraction):
    spec = SpaceSpec(bounds={"F": {"low": 0.95, "high": 0.95}}, blind_fraction=blind_fraction)
    landscape = make(space=spec.resolve(), acquisition=rule, training_steps=10)
    rows = cliff.rows(cliff.design(60, seed=5))
    rows["inputs"][:, 3] = 0.95
    rows["inputs"][:, STRATEGY_COLUMN] = blind_fraction
    landscape.observe(Phase.LHS, rows)
    drain(landscape.fit())
    inputs = landscape.propose(0, 4, NOTHING)
    np.testing.assert_allclose(inputs[:, 3], 0.95, rtol=1e-6)
    assert set(inputs[:, STRATEGY_COLUMN]) == {blind_fraction}
    scales = landscape.length_scales()
    assert scales[3] == scales[STRATEGY_COLUMN] == scales.max() > scales[: len(PARAMETERS)].min()


def test_nothing_to_propose_from(make):
    with pytest.raises(FailedPrecondition, match="not fitted"):
        make(50).propose(0, 4, NOTHING)
