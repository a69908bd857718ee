"""The closed form of a run on rows of the parameter space: `caligo.physics` applied to a campaign's own settings."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from caligo.physics import entropy_arrays
from caligo.physics.arrays import NUMPY, Arrays, double
from caligo.physics.device import law
from caligo.physics.prediction import Prediction, predict, retention
from caligo.space import PARAMETERS, STRATEGY_COLUMN, ExplorationSample
from caligo.spec import CampaignSpec, PhysicsSpec, ProtocolSpec

_LN10: Final = math.log(10.0)


def expect(inputs: Any, physics: PhysicsSpec, protocol: ProtocolSpec, arrays: Arrays = NUMPY) -> Prediction:
    """What one run of the protocol is expected to give, as a distribution (`caligo.physics.prediction.predict`).

    Args:
        inputs: model coordinates [..., 9] as rows hold them, of any floating type; what lies outside the limits of a
            parameter counts as the limit.
        physics: the claim and what is assumed.
        protocol: how runs are carried out.
        arrays: the library that `inputs` are of. With PyTorch, gradients pass through.

    Returns:
        Arrays of float64 [...].
    """
    return _predict(_columns(double(inputs, arrays.xp), arrays.xp), physics, protocol, arrays)


def _columns(rows: Any, xp: Any) -> list[Any]:
    """Physical values of model coordinates, and the strategy."""
    columns = []
    for j, parameter in enumerate(PARAMETERS):
        values = xp.exp(_LN10 * rows[..., j]) if parameter.is_log else rows[..., j]
        columns.append(xp.clip(values, parameter.lowest, parameter.highest))
    columns.append(xp.where(rows[..., STRATEGY_COLUMN] > 0.5, 1.0, 0.0))
    return columns


def surplus(inputs: Any, physics: PhysicsSpec) -> NDArray[np.float64]:
    """h_min - h(Q) of rows behind a device, bits a reconciled bit: no key is possible where it is not positive.

    `physics.feasibility_margin` with the device's error rate at its least, and only rounds of single pairs for h_min.

    Args:
        inputs: model coordinates [n, 9].

    Returns:
        float64 [n], in [-1, 1/2].
    """
    r, nu, wait, fidelity, efficiency, detector_error, dark, rounds, _ = _columns(np.asarray(inputs, np.float64), np)
    device = physics.device.in_rounds()
    found = law(device, fidelity, efficiency, detector_error, dark, rounds, physics.fidelity_convention)
    kept = retention(r, wait, physics.memory_model, np)
    single = np.clip(1.0 - found.several / found.click, 0.0, 1.0)
    rate = entropy_arrays.entropy_rate(physics.claim, kept, nu, np) * single
    return rate - entropy_arrays.binary_entropy(np.clip(found.still_qber, 0.0, 0.5), np)


def expected(inputs: NDArray[np.floating], spec: CampaignSpec) -> NDArray[np.float32]:
    """What the closed form alone says of rows of a campaign, beside what its surrogate does.

    Args:
        inputs: model coordinates [n, 9].

    Returns:
        float32 [n, 3]: mean and standard deviation of the margin of one run that fills a frame, and the probability of
        a key. NaN where the rules of the campaign are those of another release, of which there is no closed form.
    """
    if spec.rules is not None:
        return np.full((len(inputs), 3), np.nan, dtype=np.float32)
    run = expect(inputs, spec.physics, spec.protocol)
    return np.stack([run.margin, run.sd, run.key], axis=-1).astype(np.float32)


def expect_sample(s: ExplorationSample, physics: PhysicsSpec, protocol: ProtocolSpec) -> Prediction:
    """`expect` of one sample: arrays of no dimension."""
    columns = [s.r, s.nu, s.dt_ns, s.F, s.eta, s.e_det, s.P_dark, float(s.N), float(s.strategy)]
    return _predict(columns, physics, protocol, NUMPY)


def _predict(columns: list[Any], physics: PhysicsSpec, protocol: ProtocolSpec, arrays: Arrays) -> Prediction:
    return predict(
        *columns,
        claim=physics.claim,
        partition=protocol.partition,
        memory_model=physics.memory_model,
        convention=physics.fidelity_convention,
        eps=physics.epsilon,
        test_fraction=protocol.test_fraction,
        pe_penalty=protocol.pe_penalty,
        reconciliation_failure=protocol.reconciliation_failure,
        max_decoded_frames=protocol.max_decoded_frames,
        device=physics.device.in_rounds(),
        arrays=arrays,
    )
