"""SeQUeNCe as the source: its dead time, which the other sources' tests do not ask for."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from caligo_simulator.epr.registry import make_source
from caligo_simulator.epr.source import NO_CLICK, BobBases, Link, Segment, segment_bytes
from caligo_simulator.harness import ProtocolHarness, Setup
from scipy import stats

from caligo import seeds
from caligo.phases import Phase
from caligo.physics.device import Device
from caligo.results import ProtocolOutcome
from caligo.seeds import Purpose
from caligo.space import ExplorationSample

pytest.importorskip("sequence", reason="SeQUeNCe is not installed")


@pytest.mark.parametrize(("dead", "efficiency"), [(5, 0.1), (20, 0.1), (4, 0.9)])
def test_dead_time_puts_both_detectors_to_sleep(dead: int, efficiency: float) -> None:
    """Click rate p/(1 + pD) with the variance of a renewal process, no click within D rounds of another, and the QBER
    of a link without dead time; neighbouring clicks tell nothing of each other's bits."""
    link, pairs = Link(0.95, efficiency, 0.03, 1e-2, "fidelity", Device(dead_rounds=dead)), 40_000
    segment = Segment.over(np.empty(segment_bytes(pairs), np.uint8), pairs)
    key = seeds.key(11, Phase.LHS, 0, Purpose.QUANTUM)
    make_source("sequence").fill(segment, link, BobBases(None, 0), key, 0)

    clicks = np.flatnonzero(segment.bob_click != NO_CLICK)
    assert np.diff(clicks).min() == dead + 1
    p = float(link.law().live_click)
    share = 1.0 / (1.0 + p * dead)
    assert link.click_probability() == pytest.approx(p * share)
    sd = np.sqrt(pairs * p * (1.0 - p) * share**3)
    assert abs(clicks.size - pairs * p * share) < 4.0 * sd + 1.0  # a tile begins awake
    equal = clicks[segment.alice_basis[clicks] == segment.bob_basis[clicks]]
    wrong = int((segment.alice_bit[equal] != segment.bob_click[equal]).sum())
    assert stats.binomtest(wrong, equal.size, link.qber()).pvalue > 1e-5
    table = np.zeros((2, 2), int)
    for first, second in itertools.pairwise(segment.bob_click[clicks].tolist()):
        table[first, second] += 1
    assert stats.chi2_contingency(table).pvalue > 1e-5


def test_a_run_with_dead_time_passes_the_detection_test(
    harness: ProtocolHarness, make_setup: Callable[..., Setup], secure: Callable[..., ExplorationSample]
) -> None:
    """The closed form behind the test knows the dead time that the run has."""
    device = {"round_period_ns": 100, "detectors": {"dead_time_ns": 150}}
    setup = make_setup(physics={"device": device}, protocol={"epr_source": "sequence"})
    result = harness.run(secure(N=80_000), setup)
    assert result.outcome is ProtocolOutcome.SUCCESS
    assert result.detected < 0.6 * 80_000
