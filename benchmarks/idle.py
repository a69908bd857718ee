"""The share of time in which simulators have nothing to do in the active phase, with and without lookahead.

The real phase, pipeline, journal and farm; replicas whose rows take a set time; a stand-in surrogate that thinks for a
set share of a batch's time over each proposal, and fits as long in the background. With lookahead 1 the next batch is
proposed while the last one is simulated, so nobody waits; lookahead 0, the peer, waits at each batch for the think.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
from caligo_orchestrator.farm.replicas import ReplicaFarm
from caligo_orchestrator.model.remote import Proposed
from caligo_orchestrator.phases.active import ActivePhase
from caligo_orchestrator.pipeline import Pipeline
from caligo_orchestrator.store.journal import Journal
from numpy.typing import NDArray

from benchmarks.dispatch import share_busy, warm
from benchmarks.peers.simulators import serving
from caligo.phases import Phase
from caligo.spec import CampaignSpec, validate
from caligo.v1 import surrogate_pb2

CAMPAIGN = "benchmark"


class Fit:
    """A fit in the background: over when its time is."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    def wait(self, look_up: Any) -> surrogate_pb2.FitSummary:
        time.sleep(max(0.0, self._ends - time.monotonic()))
        return surrogate_pb2.FitSummary()

    def cancel(self) -> None:
        pass


class Thinker:
    """What the phase asks of a surrogate and a sampler: random proposals after a think, every row worth simulating."""

    def __init__(self, spec: CampaignSpec, seconds: float) -> None:
        self._space = spec.space.resolve()
        self._seconds = seconds
        self._random = np.random.default_rng(1)

    def propose(self, batch: int, size: int, pending: NDArray[np.float32]) -> Proposed:
        time.sleep(self._seconds)
        inputs = self._space.from_unit(self._random.random((size, 9), dtype=np.float32))
        return Proposed(inputs, np.zeros((size, 2), np.float32), np.zeros(size, np.uint8), (b"", ""))

    def feasible(self, spec: CampaignSpec, inputs: NDArray[np.float32]) -> NDArray[np.bool_]:
        return np.ones(len(inputs), np.bool_)

    def observe(self, *rows: Any) -> None:
        pass

    def begin_fit(self, holdout_fraction: float) -> Fit:
        return Fit(self._seconds)

    def boundary(self, *, sides_only: bool = False) -> tuple[NDArray[np.bool_], float | None]:
        return self._random.random(64) < 0.5, None

    def export(self) -> tuple[bytes, str]:
        return b"", ""

    def restore(self, tensors: bytes, metadata: str) -> None:
        pass


def idle(lookahead: int, arguments: argparse.Namespace) -> dict[str, float]:
    """One active phase."""
    batch_seconds = arguments.batch * arguments.row_seconds / arguments.replicas
    active = {
        "samples": arguments.batches * arguments.batch,
        "batch_size": arguments.batch,
        "lookahead": lookahead,
    }
    spec = validate(CampaignSpec, {"name": CAMPAIGN, "active": active})
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal")
        journal.create_campaign(CAMPAIGN, None, spec.model_dump_json(), 100)
        with serving([arguments.row_seconds] * arguments.replicas) as replicas:
            farm = ReplicaFarm(replicas.address, 30.0)
            warm(farm, arguments.replicas)
            thinker = cast(Any, Thinker(spec, arguments.think * batch_seconds))

            done: list[float] = []
            """When each row was durable."""

            def record(rows: Any) -> None:
                journal.append_rows(CAMPAIGN, Phase.ACTIVE, rows)
                done.extend([time.monotonic()] * len(rows))

            with Pipeline(CAMPAIGN, spec, Phase.ACTIVE, farm, record, threading.Event()) as pipeline:
                phase = ActivePhase(CAMPAIGN, spec, thinker, thinker, journal, pipeline, lambda *_: None)
                begun = time.monotonic()
                phase.run()
                took = time.monotonic() - begun
            farm.close()
        journal.close()
    half, ends = done[2 * arguments.batch - 1], done[active["samples"] - 2 * arguments.batch - 1]
    # The first batches and the last are left out: nothing is proposed before the one, or after the other.
    return {
        "lookahead": lookahead,
        "idle": 1.0 - share_busy(replicas, half, ends),
        "batch_seconds": batch_seconds,
        "think_seconds": arguments.think * batch_seconds,
        "seconds": took,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--row-seconds", type=float, default=0.1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--think", type=float, default=0.6, help="times what a batch takes")
    arguments = parser.parse_args()
    without, ahead = (idle(lookahead, arguments) for lookahead in (0, 1))
    for point in (without, ahead):
        print(
            f"lookahead {point['lookahead']:.0f}: simulators idle {point['idle']:.1%} of the time "
            f"(a batch takes {point['batch_seconds']:.2f} s, a think {point['think_seconds']:.2f} s)"
        )
    if arguments.json:
        print(json.dumps({
            "name": "idle", "value": ahead["idle"], "unit": "share of time simulators are idle in the active phase",
            "aim": 0.05, "peer": "lookahead 0", "peer_value": without["idle"], "ratio": ahead["idle"] / without["idle"],
            "points": [without, ahead], "load": os.getloadavg()[0],
        }))  # fmt: skip


if __name__ == "__main__":
    main()
