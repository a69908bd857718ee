"""The closed form's table of efficiencies is what the shipped codes are expected to do."""

from __future__ import annotations

import pytest
from caligo_simulator.protocol.reconciliation import baseline_plan, blind_plan, codes, payload_bits
from caligo_simulator.protocol.reconciliation.plans import expected_leak

from caligo.physics import efficiency
from caligo.physics.entropy import binary_entropy


def expected_efficiencies(planner, n: int) -> tuple[float, ...]:  # type: ignore[no-untyped-def]
    """What the table must hold: f of the plan for each error rate, to three decimals."""
    found = []
    for q in efficiency.QBER:
        plan = planner(q, n)
        found.append(round(expected_leak(plan) / (plan.payload * binary_entropy(q)), 3))
    return tuple(found)


def test_frame_sizes_and_payloads() -> None:
    assert efficiency.FRAME_SIZES == codes.FRAME_SIZES
    assert tuple(payload_bits(n) for n in codes.FRAME_SIZES) == efficiency.PAYLOADS


@pytest.mark.parametrize(("size", "strategy"), [(i, s) for i in (0, 1) for s in (0, 1)])
def test_table(size: int, strategy: int) -> None:
    planner = (baseline_plan, blind_plan)[strategy]
    assert efficiency.EFFICIENCY[size][strategy] == expected_efficiencies(planner, codes.FRAME_SIZES[size])


@pytest.mark.parametrize("size", [0, 1])
def test_least_leakage(size: int) -> None:
    """That of the code of the highest rate with all that can be punctured."""
    code = codes.load(codes.FRAME_SIZES[size], max(codes.RATES))
    least = (code.m - code.punctured) / efficiency.PAYLOADS[size]
    assert efficiency.LEAST_LEAKAGE[size] == pytest.approx(least, rel=1e-12)
