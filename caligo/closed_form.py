"""The closed-form expectation of a sample: `caligo.physics` applied to a campaign's own types."""

from __future__ import annotations

from caligo.physics.prediction import Prediction, predict
from caligo.space import ExplorationSample
from caligo.spec import PhysicsSpec, ProtocolSpec


def expect(sample: ExplorationSample, physics: PhysicsSpec, protocol: ProtocolSpec) -> Prediction:
    """What one run of the protocol on `sample` is expected to give (see `caligo.physics.prediction.predict`)."""
    return predict(
        sample.r,
        sample.nu,
        sample.dt_ns,
        sample.F,
        sample.eta,
        sample.e_det,
        sample.P_dark,
        sample.N,
        sample.strategy,
        claim=physics.claim,
        partition=protocol.partition,
        memory_model=physics.memory_model,
        convention=physics.fidelity_convention,
        eps=physics.epsilon,
        test_fraction=protocol.test_fraction,
        pe_penalty=protocol.pe_penalty,
        reconciliation_failure=protocol.reconciliation_failure,
    )
