"""The closed form of a run against repeated runs of the simulator: a small `benchmarks.run_distribution`."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.run_distribution import compare, points, simulate, summary


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_runs_scatter_as_foretold() -> None:
    table = compare(simulate(points(10, seed=11), runs=24, seed=11))
    found = summary(table, 24)
    assert found["filled_rejected"] == 0
    assert found["sd_ratio_median"] == pytest.approx(1.0, abs=0.35)
    assert found["mean_off_rms"] < 1.2
    far = [p for p in table if not 0.02 < p["key"] < 0.98]
    assert np.mean([abs(p["measured_key"] - p["key"]) for p in far] or [0.0]) < 0.15
    assert found["key_brier"] < found["key_brier_floor"] + 0.06
