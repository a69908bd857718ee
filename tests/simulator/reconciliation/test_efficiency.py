"""The closed form's table of efficiencies is what the shipped codes are expected to do."""

from __future__ import annotations

import pytest
from caligo_simulator.protocol.reconciliation import baseline_plan, blind_plan, codes, payload_bits
from caligo_simulator.protocol.reconciliation.plans import expected_leak, least_failure

from caligo.physics import efficiency
from caligo.physics.entropy import binary_entropy


def rounded(leak: float, size: int, qber: float) -> float:
    """f to three decimals, as the table has it."""
    return round(leak / (efficiency.PAYLOADS[size] * binary_entropy(qber)), 3)


def test_frame_sizes_and_payloads() -> None:
    assert efficiency.FRAME_SIZES == codes.FRAME_SIZES
    assert tuple(payload_bits(n) for n in codes.FRAME_SIZES) == efficiency.PAYLOADS


@pytest.mark.parametrize("failure", range(len(efficiency.FAILURES)))
@pytest.mark.parametrize("size", [0, 1])
def test_baseline_table(size: int, failure: int) -> None:
    n = codes.FRAME_SIZES[size]
    for frames, row in zip(efficiency.FRAMES, efficiency.BASELINE_EFFICIENCY[size][failure], strict=True):
        plans = [baseline_plan(q, n, frames, efficiency.FAILURES[failure]) for q in efficiency.QBER]
        leaks = [codes.load(n, min(codes.RATES)).m if plan is None else plan.leak(frames) / frames for plan in plans]
        most = efficiency.PAYLOADS[size]
        assert row == tuple(rounded(min(leak, most), size, q) for leak, q in zip(leaks, efficiency.QBER, strict=True))


@pytest.mark.parametrize("size", [0, 1])
def test_blind_table(size: int) -> None:
    plans = [blind_plan(q, codes.FRAME_SIZES[size]) for q in efficiency.QBER]
    found = tuple(rounded(expected_leak(plan), size, plan.qber) for plan in plans if plan is not None)
    assert efficiency.BLIND_EFFICIENCY[size] == found


@pytest.mark.parametrize("size", [0, 1])
def test_least_leakage(size: int) -> None:
    """That of the code of the highest rate with all that can be punctured."""
    code = codes.load(codes.FRAME_SIZES[size], max(codes.RATES))
    least = (code.m - code.punctured) / efficiency.PAYLOADS[size]
    assert efficiency.LEAST_LEAKAGE[size] == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize(("qber", "frames"), [(0.02, 1), (0.08, 1), (0.1, 1), (0.112, 1), (0.1, 100)])
def test_least_failure(qber: float, frames: int) -> None:
    """It can be had, and half of it leaves nothing of the strings; an outer code always restores a frame more."""
    least = least_failure(qber, 4096, frames)
    assert least is not None and (least < 1e-11 or frames == 1)
    plan = baseline_plan(qber, 4096, frames, least)
    assert plan is not None and plan.leak(frames) < frames * plan.payload
    if least > 1e-11:
        plan = baseline_plan(qber, 4096, frames, 0.5 * least)
        assert plan is None or plan.leak(frames) >= frames * plan.payload


def test_no_failure_is_low_enough_where_no_code_serves() -> None:
    assert least_failure(0.2, 4096, 1) is None
    assert least_failure(0.112, 4096, 100) is None
