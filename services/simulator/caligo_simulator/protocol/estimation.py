"""How noisy the channel was, and for how much noise the code is chosen."""

from __future__ import annotations

from typing import NamedTuple

from caligo.physics.finite_key import Penalty, design_qber
from caligo.space import Strategy
from caligo_simulator.protocol.sifting import Sifted


class Estimate(NamedTuple):
    """qber: measured error rate. The baseline measures it on the calibration slots; for the blind strategy, which has
    none, it is the simulator's own count over I_C, and nothing in the protocol depends on it.

    design_qber: what the code is chosen for. Baseline: the measured rate, raised for finite statistics; blind: what
    the devices are known for.
    """

    qber: float
    design_qber: float


def estimate(
    sifted: Sifted, strategy: Strategy, prior_qber: float, failure: float, penalty: Penalty
) -> Estimate | None:
    """The estimate, or None where no round could be measured.

    failure: probability with which the error rate of the strings may exceed the baseline's design_qber.
    """
    if strategy is Strategy.BLIND:
        return Estimate(sifted.errors / sifted.matched, prior_qber) if sifted.matched else None
    k = sifted.slots_matched
    if k == 0 or sifted.length == 0:
        return None
    qber = sifted.slot_errors / k
    return Estimate(qber, design_qber(qber, sifted.length, k, failure, penalty))
