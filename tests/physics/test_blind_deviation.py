"""How frames of the blind protocol differ is what the plans of the shipped codes say."""

from __future__ import annotations

import pytest
from caligo_simulator.protocol.reconciliation import blind_plan
from caligo_simulator.protocol.reconciliation.plans import leak_deviation

from caligo.physics.efficiency import FRAME_SIZES, PAYLOADS, QBER
from caligo.physics.leakage import BLIND_DEVIATION


@pytest.mark.parametrize("size", [0, 1])
def test_blind_deviation(size: int) -> None:
    plans = [blind_plan(q, FRAME_SIZES[size]) for q in QBER]
    assert BLIND_DEVIATION[size] == tuple(round(leak_deviation(p) / PAYLOADS[size], 5) for p in plans if p is not None)
