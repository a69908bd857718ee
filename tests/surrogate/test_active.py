"""The acquisition: values and gradients of every rule, and the batches that they choose."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from caligo_surrogate import acquisition
from caligo_surrogate.acquisition import straddle
from caligo_surrogate.acquisition.expected_brier import Reduction, fall
from caligo_surrogate.acquisition.straddle import Straddle
from caligo_surrogate.acquisition.sweep import DECIDED, MOST, WANTED, Sweep
from caligo_surrogate.design import design_points, search_box
from caligo_surrogate.device import Device
from caligo_surrogate.escalation import Numerics, Solver
from caligo_surrogate.posterior import Matern, Process, condition
from caligo_surrogate.prior import Constant, Known
from scipy.stats import chi2, kstest, norm
from sklearn.gaussian_process.kernels import Matern as ReferenceMatern

from caligo.errors import FailedPrecondition
from caligo.phases import Phase
from caligo.space import PARAMETERS, STRATEGY_COLUMN
from caligo.spec import BatchRule, SpaceSpec

NOTHING = np.zeros((0, 9), dtype=np.float32)
RULES = get_args(BatchRule)
SCALES = np.array([0.8, 1.1, 1.4, 0.6, 0.9, 3.0, 4.0, 0.8, 2.0])
VARIANCE, NOISE, LEVEL, WEIGHT = 1.3, 0.02, 0.1, 1.96


class Reference:
    """A Gaussian process in float64 on scikit-learn's kernel, with nothing clever."""

    def __init__(self, x, y, noise=NOISE):
        self.x, self.y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        self.noise = np.broadcast_to(noise, len(self.x))
        self.kernel = ReferenceMatern(SCALES, nu=2.5)
        self.inverse = np.linalg.inv(self.k(self.x, self.x) + np.diag(self.noise))

    def k(self, a, b):
        return VARIANCE * self.kernel(a, b)

    def moments(self, x):
        k = self.k(np.asarray(x, dtype=np.float64), self.x)
        return k @ self.inverse @ self.y, VARIANCE - np.sum(k @ self.inverse * k, axis=1)

    def given(self, x, y, noise=NOISE):
        return Reference(np.vstack([self.x, x]), np.append(self.y, y), np.append(self.noise, noise))


def conditioned(x, y, solver="cholesky", prior=None):
    matern = Matern(torch.tensor(SCALES, dtype=torch.float32), VARIANCE)
    process = Process(matern, prior or Constant(), 0.0, NOISE, 0.0)
    choice = Solver(solver, Device("cpu"), Numerics())
    inputs, targets = torch.tensor(x), torch.tensor(y, dtype=torch.float32)
    return condition(process, inputs, targets, choice, choice.posterior(len(x)).plan, seed=0)


class Gated:
    """Nothing is known but a gate and a noise, which differ from point to point."""

    name = "gated"

    def __call__(self, x):
        return Known(torch.zeros_like(x[..., 0]), 0.1 * x[..., 1], x[..., 7])


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
def sequence(cliff):
    def points(n):
        return torch.tensor(design_points(cliff.space, n, seed=13))

    return points


@pytest.fixture(scope="module")
def box(space):
    return search_box(space, torch.zeros(0))


# --- values ---------------------------------------------------------------------------------------------------------


def test_straddle_of_one_is_its_formula(posterior, reference, points):
    value = Straddle(posterior, LEVEL, WEIGHT)(points.unsqueeze(1))
    mean, variance = reference.moments(points)
    np.testing.assert_allclose(value, WEIGHT * np.sqrt(variance) - np.abs(mean - LEVEL), rtol=1e-3, atol=1e-4)
    assert value.dtype == torch.float32


def test_straddle_of_a_batch_is_one_point_after_another(posterior, points):
    """The sum over the batch's Cholesky factor equals conditioning on each point before the next is valued."""
    total, believed = torch.zeros(()), posterior
    for point in points[:4]:
        total = total + Straddle(believed, LEVEL, WEIGHT)(point[None, None]).squeeze()
        believed = believed.believe(point[None])
    joint = Straddle(posterior, LEVEL, WEIGHT)(points[:4].unsqueeze(0)).squeeze()
    torch.testing.assert_close(joint, total, atol=1e-3, rtol=1e-3)


def test_the_same_point_twice_counts_once(posterior, points):
    acquire = Straddle(posterior, LEVEL, WEIGHT)
    twice = acquire(points[:1].repeat(2, 1).unsqueeze(0))
    once = acquire(points[:1].unsqueeze(0))
    distance = (posterior.mean(points[:1]) - LEVEL).abs()
    assert float(twice - once + distance) < 0.7 * float(once + distance)


def test_gradient_is_that_of_finite_differences(posterior, points):
    batch = points[:3].double().requires_grad_()
    acquire = Straddle(posterior, LEVEL, WEIGHT)
    assert torch.autograd.gradcheck(lambda x: acquire(x.unsqueeze(0)), batch, eps=1e-6, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("prior", [Constant(), Gated()], ids=lambda prior: prior.name)
def test_what_a_run_takes_off_is_its_mean_over_the_outcomes_of_the_run(rows, sequence, prior):
    """Against conditioning on 60 outcomes of each run, by Gauss-Hermite quadrature; a shut gate tells nothing."""
    posterior = conditioned(*rows, prior=prior)
    reference = Reference(*rows, noise=NOISE + prior(torch.tensor(rows[0])).noise.double().numpy())
    sweep = Sweep.of(posterior, sequence, 8, LEVEL)
    some = slice(0, 30)
    sweep = Sweep(sweep.points[some], type(sweep.moments)(*(m[some] for m in sweep.moments)), sweep.doubt[some])
    x = sweep.points.numpy()
    noise = NOISE + prior(sweep.points).noise.double().numpy()
    gate = prior(sweep.points).gate.double().numpy()
    nodes, shares = np.polynomial.hermite_e.hermegauss(60)

    def doubt(process):
        mean, variance = process.moments(x)
        p = gate * norm.sf(LEVEL, mean, np.sqrt(variance + noise))
        return np.sum(p * (1 - p))

    expected = []
    for i in range(3):
        mean, variance = reference.moments(x[i : i + 1])
        outcomes = mean + np.sqrt(variance + noise[i]) * nodes
        after = [doubt(reference.given(x[i : i + 1], outcome, noise[i])) for outcome in outcomes]
        expected.append(gate[i] * (doubt(reference) - np.average(after, weights=shares)))
    found = Reduction(posterior, sweep, LEVEL).values(0, sweep.moments.variance)
    np.testing.assert_allclose(found[:3], expected, rtol=5e-3)


def test_a_run_that_tells_all():
    """A noiseless run on the level: p (1 - p) is 1/4 before and 0 after."""
    assert float(fall(torch.tensor(1.0), torch.tensor(0.0))) == pytest.approx(0.25, abs=1e-4)
    assert float(fall(torch.tensor(0.0), torch.tensor(0.0))) == 0


def test_randomized_weights_are_roots_of_chi_squared_draws():
    weights = straddle.randomized_weights(4000, seed=5)
    assert kstest(weights**2, chi2(2).cdf).pvalue > 0.01
    assert (np.diff(weights) <= 0).all()
    np.testing.assert_array_equal(straddle.randomized_weights(4, seed=5), straddle.randomized_weights(4, seed=5))
    assert (straddle.randomized_weights(4, seed=6) != straddle.randomized_weights(4, seed=5)).any()


# --- the sweep ------------------------------------------------------------------------------------------------------


def test_a_sweep_holds_what_is_undecided(posterior, sequence):
    sweep = Sweep.of(posterior, sequence, 8, LEVEL)
    assert 8 <= len(sweep) <= WANTED
    key = sweep.moments.key(LEVEL)
    assert bool(((key > DECIDED) & (key < 1 - DECIDED)).all())
    assert bool((sweep.doubt.diff() <= 0).all())
    rest = posterior.marginal(sequence(2048)).key(LEVEL)
    assert float(sweep.doubt[0]) == float((rest * (1 - rest)).max())


@pytest.mark.parametrize("value", [-30.0, 30.0], ids=["all dead", "all secure"])
@pytest.mark.parametrize("rule", RULES)
def test_where_all_is_decided_a_batch_is_filled_up_and_ends(rows, sequence, box, value, rule):
    """Every value of a rule is the same there, or nearly: no choice among ties may go on for ever."""
    decided = conditioned(rows[0], np.full(len(rows[0]), value))
    batch = acquisition.propose(decided, sequence, box, 8, rule, LEVEL, WEIGHT, 4)
    assert batch.shape == (8, 9)
    assert len(torch.unique(batch, dim=0)) == 8


def test_a_small_boundary_is_looked_for_in_more_points(rows, sequence):
    asked = []

    def counted(n):
        asked.append(n)
        return sequence(n)

    Sweep.of(conditioned(rows[0], np.full(len(rows[0]), 30.0)), counted, 8, LEVEL)
    assert asked == sorted(asked)
    assert asked[-1] == MOST


def test_a_space_of_one_point_ends(posterior, box):
    def point(n):
        return torch.full((n, 9), 0.5)

    for rule in RULES:
        assert acquisition.propose(posterior, point, box, 4, rule, LEVEL, WEIGHT, 4).shape == (4, 9)


# --- batches --------------------------------------------------------------------------------------------------------


def chosen(posterior, box, sequence, size, rule, seed=4):
    return acquisition.propose(posterior, sequence, box, size, rule, LEVEL, WEIGHT, seed)


def test_a_joint_batch_is_better_than_the_greedy_one(posterior, box, sequence):
    acquire = Straddle(posterior, LEVEL, WEIGHT)
    greedy, joint = (chosen(posterior, box, sequence, 4, rule) for rule in ("straddle", "joint_straddle"))
    assert float(acquire(joint.unsqueeze(0))) > float(acquire(greedy.unsqueeze(0)))
    torch.testing.assert_close(joint[:, STRATEGY_COLUMN], greedy[:, STRATEGY_COLUMN])


@pytest.mark.parametrize("rule", ["straddle", "sur"])
def test_a_batch_begins_with_the_batch_of_one(posterior, box, sequence, rule):
    torch.testing.assert_close(chosen(posterior, box, sequence, 3, rule)[:1], chosen(posterior, box, sequence, 1, rule))


def test_a_batch_goes_on_as_if_its_first_points_were_pending(posterior, sequence, box):
    """Each point has the greatest straddle of the sweep, given a posterior conditioned anew on those before."""
    sweep = Sweep.of(posterior, sequence, 8, LEVEL)
    believed, left = posterior, sweep.points
    for point in chosen(posterior, box, sequence, 4, "straddle"):
        values = Straddle(believed, LEVEL, WEIGHT)(left.unsqueeze(1))
        torch.testing.assert_close(left[values.argmax()], point)
        believed = believed.believe(point.unsqueeze(0))
        left = left[(left != point).any(dim=1)]


def test_the_rule_that_integrates_takes_off_more_than_other_batches(posterior, box, sequence):
    """Judged by the expected p (1 - p) that is left on other points, over outcomes drawn from the posterior."""
    fresh = sequence(4096)[2048:]
    generator = torch.Generator().manual_seed(0)

    def left(batch):
        mean, covariance = posterior.joint(batch)
        spread = torch.linalg.cholesky(covariance + NOISE * torch.eye(len(batch)))
        total = 0.0
        for _ in range(12):
            outcome = mean + spread @ torch.randn(len(batch), generator=generator)
            key = posterior.extended(batch, outcome.detach()).marginal(fresh).key(LEVEL)
            total += float((key * (1 - key)).mean())
        return total

    own = left(chosen(posterior, box, sequence, 6, "sur"))
    assert own < min(left(sequence(2048)[i : i + 6]) for i in range(0, 60, 6))


def test_the_rule_that_integrates_gives_way_where_there_is_no_factor(rows, box, sequence):
    iterative = conditioned(*rows, solver="cg")
    expected = chosen(iterative, box, sequence, 2, acquisition.RULE_WITHOUT_FACTOR)
    assert torch.equal(chosen(iterative, box, sequence, 2, "sur"), expected)


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
    assert nearest(space.to_unit(inputs)) > 0.05


@pytest.mark.parametrize("rule", RULES)
def test_pending_points_are_respected(by_rule, space, rule):
    first = by_rule[rule].propose(3, 4, NOTHING)
    second = by_rule[rule].propose(3, 4, first)
    assert nearest(space.to_unit(np.concatenate([first, second]))) > 0.05


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
