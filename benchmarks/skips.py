"""What the guardrail skips in campaigns of the shipped size, and how often it is wrong.

Campaigns of 48 + 48 rows as the services run them, in the spaces `cliff` and `table1`, except that the rows that the
guardrail skips are simulated as well, to see who is right; the surrogate is not told. Counted over all campaigns:

* of the failures whose probability of failure in closed form exceeds 0.995, the share that was skipped (aim: 90 %);
* of all skips, the share that would have had a key (aim: 1 % at most);
* seconds that the skipped rows took, of all (real ones, not the estimate that a campaign prints).

The peer is the aim: without the table a campaign of this size, whose evidence is its own, skips nothing (decision 10).
Rows are kept in the file of `benchmarks.cliff_rows`.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from caligo_orchestrator.pipeline import skipped_rows
from caligo_sampler.design import LHSSampler
from caligo_surrogate.device import Device
from caligo_surrogate.landscape import EfficiencyLandscape
from numpy.typing import NDArray

from benchmarks.cliff_rows import FOLDER, SPEC, feasible, simulate
from caligo import logs, screening
from caligo.phases import Phase
from caligo.results import ProtocolOutcome, ResultRows, metric, succeeded
from caligo.screening import Verdict
from caligo.spec import CampaignSpec, SpaceSpec

DOOMED: Final = 0.995
AIM: Final = 0.9
SAMPLES: Final = 48
BATCH: Final = 8
COLUMNS: Final = ("doomed failures", "of these skipped", "skips", "wrong", "seconds", "seconds skipped")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--campaigns", type=int, default=3, help="in each space (figures in docs/performance.md: 20)")
    parser.add_argument("--phase-1-only", action="store_true", help="leave the active phase out")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the file of rows is")
    arguments = parser.parse_args()
    logs.configure(level="error")
    totals = {}
    for preset in ("cliff", "table1"):
        found = [
            campaign(preset, seed, not arguments.phase_1_only, arguments.folder)
            for seed in range(1, arguments.campaigns + 1)
        ]
        totals[preset] = np.sum(found, axis=0)
        if not arguments.json:
            print(preset, dict(zip(COLUMNS, totals[preset].round(1).tolist(), strict=True)), flush=True)
    doomed, skipped, skips, wrong, seconds, saved = np.sum(list(totals.values()), axis=0).tolist()
    result: dict[str, Any] = {
        "name": "skips",
        "value": skipped / doomed,
        "unit": "of the failures that the closed form is sure of (0.995), skipped",
        "peer": "the aim",
        "peer_value": AIM,
        "ratio": skipped / doomed / AIM,
        "wrong": wrong / skips if skips else None,
        "wrong_bound": screening.upper_bound(int(skips), int(wrong)),
        "seconds_saved": saved / seconds,
        "campaigns": 2 * arguments.campaigns,
    }
    print(json.dumps(result))


def campaign(preset: str, seed: int, active: bool, folder: Path) -> NDArray[np.float64]:
    """What one campaign counts, in the order of `COLUMNS`."""
    spec = SPEC.model_copy(update={"seed": seed, "space": SpaceSpec.model_validate({"preset": preset})})
    screen = screening.screen(spec.guardrail, spec.physics, spec.protocol)
    index, inputs = design(spec)
    doomed = feasible(inputs) & screen.dooms(log_odds(inputs), inputs)
    verdict = screening.verdicts(doomed, spec.guardrail, seed, Phase.LHS, index)
    count, seen = judged(spec, index, inputs, verdict, Phase.LHS, folder)
    if not active:
        return count
    landscape = EfficiencyLandscape(
        spec.space.resolve(), spec.surrogate, spec.guardrail, spec.physics, spec.protocol, seed, Device("cpu")
    )
    torch.manual_seed(0)
    landscape.observe(Phase.LHS, seen)
    for batch in range(SAMPLES // BATCH):
        for _ in landscape.fit():
            pass
        inputs = landscape.propose(batch, BATCH, np.zeros((0, 9), dtype=np.float32))
        index = batch * BATCH + np.arange(BATCH)
        _, verdict = landscape.screen(inputs, index)
        more, seen = judged(spec, index, inputs, verdict, Phase.ACTIVE, folder)
        landscape.observe(Phase.ACTIVE, seen)
        count += more
    return count


def design(spec: CampaignSpec) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows of a Latin hypercube up to the last feasible one that phase 1 wants."""
    size = SAMPLES
    while True:
        index, inputs = LHSSampler(spec.space.resolve(), spec.seed, size).rows(0, size)
        found = np.cumsum(feasible(inputs))
        if found[-1] >= SAMPLES:
            used = int(np.searchsorted(found, SAMPLES)) + 1
            return index[:used], inputs[:used]
        size = math.ceil(1.2 * size)


def judged(
    spec: CampaignSpec,
    index: NDArray[np.int64],
    inputs: NDArray[np.float32],
    verdict: NDArray[np.uint8],
    phase: Phase,
    folder: Path,
) -> tuple[NDArray[np.float64], ResultRows]:
    """What some rows add to the counts, and what the surrogate hears of them."""
    rows = simulate(inputs, index, spec.seed, phase, folder)
    ran = rows["outcome"] != ProtocolOutcome.SKIPPED_INFEASIBLE
    skip, seconds = ran & (verdict == Verdict.SKIP), metric(rows, "wall_seconds").astype(np.float64)
    sure = ran & ~succeeded(rows) & (log_odds(inputs) > math.log(DOOMED / (1 - DOOMED)))
    counts = (sure, sure & skip, skip, skip & succeeded(rows))
    told = rows.copy()
    if skip.any():
        told[skip] = skipped_rows(index[skip], inputs[skip], ProtocolOutcome.SKIPPED_PREDICTED_FAILURE, spec)
    return np.array([*(int(c.sum()) for c in counts), seconds[ran].sum(), seconds[skip].sum()]), told


def log_odds(inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    return screening.failure_log_odds(inputs, SPEC.physics, SPEC.protocol)


if __name__ == "__main__":
    main()
