"""The acquisition: the straddle's value and gradient, the joint batch, and what it does to pending points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from caligo_surrogate import acquisition
from caligo_surrogate.acquisition import JointStraddle, Straddle
from caligo_surrogate.solvers import Numerics

from caligo.errors import FailedPrecondition
from caligo.seeds import Phase
from caligo.space import PARAMETERS, STRATEGY_COLUMN
from caligo.spec import SpaceSpec

NOTHING = np.zeros((0, 9), dtype=np.float32)


@pytest.fixture(scope="module")
def model(fitted):
    """The regressor with a way to run something under its solver's settings."""
    state = fitted._fitted()
    return state.gp, state.standard.level, fitted.solver.ladder(200, "test").run


@pytest.fixture(scope="module")
def points(cliff):
    return torch.tensor(cliff.space.to_unit(cliff.design(6, seed=11)))


def test_straddle_is_its_formula(model, points):
    gp, level, run = model
    value = run(lambda: Straddle(gp, level, 1.96)(points.unsqueeze(1)))
    mean, variance = run(lambda: gp.moments(points, Numerics()))
    torch.testing.assert_close(value, 1.96 * variance.sqrt() - (mean - level).abs(), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", [Straddle, JointStraddle])
def test_gradient_is_that_of_finite_differences(model, points, kind):
    gp, level, run = model
    gp = gp.conditioned(gp.inputs, gp.targets, Numerics()).double()
    batch = points[:1].double() if kind is Straddle else points[:3].double()
    acquire = kind(gp, level, 1.96)

    def check():
        return torch.autograd.gradcheck(
            lambda x: acquire(x.unsqueeze(0)), batch.clone().requires_grad_(), eps=1e-5, atol=1e-4
        )

    assert run(check)


def test_joint_straddle_of_one_is_the_straddle(model, points):
    gp, level, run = model
    one = points.unsqueeze(1)
    joint, single = (run(lambda k=kind: k(gp, level, 1.96)(one)) for kind in (JointStraddle, Straddle))
    torch.testing.assert_close(joint, single, atol=1e-3, rtol=1e-3)


def test_joint_straddle_is_one_point_after_another(model, points):
    """The sum over the batch's Cholesky factor equals conditioning on each point before the next is valued."""
    gp, level, run = model

    def one_by_one():
        total, believed = torch.zeros(()), gp
        for point in points[:4]:
            total = total + Straddle(believed, level, 1.96)(point[None, None]).squeeze()
            believed = acquisition.believe(believed, point[None], Numerics())
        return total

    joint = run(lambda: JointStraddle(gp, level, 1.96)(points[:4].unsqueeze(0)).squeeze())
    torch.testing.assert_close(joint, run(one_by_one), atol=2e-3, rtol=1e-3)


def test_the_same_point_twice_counts_once(model, points):
    gp, level, run = model
    acquire = JointStraddle(gp, level, 1.96)
    twice = run(lambda: acquire(points[:1].repeat(2, 1).unsqueeze(0)))
    apart = run(lambda: acquire(points[:1].unsqueeze(0)))
    mean, _ = run(lambda: gp.moments(points[:1], Numerics()))
    second = twice - apart + (mean - level).abs()
    first = apart + (mean - level).abs()
    assert float(second) < 0.7 * float(first)


# --- proposals ------------------------------------------------------------------------------------------------------


def nearest(unit):
    distance = np.linalg.norm(unit[:, None] - unit[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    return distance.min()


def test_proposals_lie_in_the_space_and_apart(fitted, space):
    inputs = fitted.propose(0, 8, NOTHING)
    assert inputs.dtype == np.float32
    assert inputs.shape == (8, 9)
    low, high = space.model_bounds().astype(np.float32)
    assert ((inputs >= low) & (inputs <= high)).all()
    assert set(inputs[:, STRATEGY_COLUMN]) <= {0.0, 1.0}
    assert nearest(space.to_unit(inputs)) > 0.3


def test_proposals_are_near_the_cliff_or_unknown(fitted, cliff):
    """A proposed batch has a greater joint straddle than any of 200 random batches."""
    inputs = fitted.propose(0, 4, NOTHING)
    rng = np.random.default_rng(0)
    others = [cliff.design(4, seed=int(s)) for s in rng.integers(0, 10**6, 200)]
    batches = torch.tensor(np.stack([cliff.space.to_unit(x) for x in (inputs, *others)]))
    state = fitted._fitted()
    values = fitted.solver.ladder(200, "test").run(
        lambda: JointStraddle(state.gp, state.standard.level, 1.96)(batches).detach()
    )
    assert int(values.argmax()) == 0


def test_pending_points_are_respected(fitted, space):
    first = fitted.propose(3, 6, NOTHING)
    second = fitted.propose(3, 6, first)
    assert nearest(space.to_unit(np.concatenate([first, second]))) > 0.2


def test_same_batch_same_proposal(fitted, cliff, make, drain):
    expected = fitted.propose(2, 5, NOTHING)
    np.testing.assert_array_equal(fitted.propose(2, 5, NOTHING), expected)
    assert not np.array_equal(fitted.propose(4, 5, NOTHING), expected)

    shuffled = make()
    rows = np.random.default_rng(0).permutation(cliff.rows(cliff.design(200, seed=1)))
    for part in np.array_split(rows, 7):
        torch.rand(1)
        shuffled.observe(Phase.LHS, part)
    drain(shuffled.fit())
    np.testing.assert_array_equal(shuffled.propose(2, 5, NOTHING), expected)


def test_global_generators_are_left_alone(fitted):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    fitted.propose(0, 2, NOTHING)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("blind_fraction", [0.0, 1.0])
def test_fixed_parameters_stay_fixed(cliff, make, drain, blind_fraction):
    spec = SpaceSpec(bounds={"F": {"low": 0.95, "high": 0.95}}, blind_fraction=blind_fraction)
    landscape = make(space=spec.resolve())
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
