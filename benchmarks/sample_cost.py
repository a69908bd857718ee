"""Seconds a sample of the `cliff` space by stage, and samples an hour on this machine.

The stages are timed one sample at a time, with one worker, on an otherwise idle simulator: their sum is what a sample
takes, waiting for the worker included. Beside it stands the CPU time of the harness thread, which other load on the
machine does not stretch, and that of the worker for the pairs. Samples an hour come from the same rows through a
simulator with a worker for each core. The peer's value is the estimate the earlier system gave of itself for 16 cores,
200 an hour; it was not run here, so the ratio compares this machine as it is with that figure.

`--source` takes another source of rounds, `--most-pairs` keeps its runs short, as `examples/sequence.yaml` does.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
from caligo_sampler.design import LHSSampler
from caligo_simulator import harness
from caligo_simulator.harness import ProtocolHarness, Setup
from caligo_simulator.simulation import Simulator
from numpy.typing import NDArray

from benchmarks.scaling import worker_seconds
from caligo.phases import Phase
from caligo.results import ProtocolOutcome
from caligo.space import PRESETS, ExplorationSample, Space
from caligo.spec import PhysicsSpec, ProtocolSpec

SEED = 4
EARLIER_PER_HOUR = 200
WAITED = "pairs made and waited for"
STAGES = {
    "quantum_phase": WAITED,
    "report": "reports, sifting",
    "divide": "partition",
    "choose_code": "error rate, choice of code",
    "reconcile": "reconciliation",
    "amplify": "amplification",
}
"""Methods of a run: stages. Reports are part of the quantum phase, and taken out of it below."""
REST = "detection test, key length, rest"


def setup_of(source: str) -> Setup:
    protocol = ProtocolSpec(epr_source=source, time_limit_seconds=3600)
    return Setup("sample-cost", SEED, Phase.LHS, PhysicsSpec(), protocol)


Seconds = NDArray[np.float64]
"""[2]: by the clock, and of CPU time."""


def now() -> Seconds:
    return np.array([time.perf_counter(), time.thread_time()])


@contextmanager
def timed_stages(spent: dict[str, Seconds]) -> Iterator[None]:
    """Add the seconds of every call of a stage to `spent`."""

    def timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            begin = now()
            try:
                return method(*arguments)
            finally:
                spent[name] += now() - begin

        return call

    with ExitStack() as patches:
        for name in STAGES:
            method = getattr(harness._Run, name)
            patches.enter_context(mock.patch.object(harness._Run, name, timed(name, method)))
        yield


def stage_costs(samples: list[ExplorationSample], setup: Setup) -> tuple[dict[str, Seconds], list[float], Counter[str]]:
    """Mean seconds a sample by stage, seconds of each sample by the clock, and outcomes."""
    spent: dict[str, Seconds] = defaultdict(lambda: np.zeros(2))
    walls: list[float] = []
    outcomes: Counter[str] = Counter()
    with Simulator(1, 2**20, f"cost-{secrets.token_hex(4)}") as simulator:
        simulator.warm_up()
        runner = ProtocolHarness(simulator.orchestrator)
        total, worker = np.zeros(2), worker_seconds(simulator)
        with timed_stages(spent):
            for sample in samples:
                begin = now()
                result = runner.run(sample, setup)
                took = now() - begin
                total += took
                walls.append(float(took[0]))
                outcomes[ProtocolOutcome(result.outcome).name.lower()] += 1
        worker = worker_seconds(simulator) - worker
    spent["quantum_phase"] -= spent["report"]
    costs = {title: spent[name] / len(samples) for name, title in STAGES.items()}
    costs[REST] = total / len(samples) - sum(costs.values())
    costs[WAITED][1] += worker / len(samples)
    return costs, walls, outcomes


def per_hour(design: np.ndarray, setup: Setup, workers: int) -> float:
    with Simulator(workers, 2**20, f"cost-{secrets.token_hex(4)}") as simulator:
        simulator.warm_up()
        begin = time.perf_counter()
        done = sum(1 for _ in simulator.simulate(setup, list(enumerate(design))))
        return 3600 * done / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--source", default="statistical", help="EPR source")
    parser.add_argument("--most-pairs", type=float, default=PRESETS["cliff"]["N"][1], help="largest N of a run")
    arguments = parser.parse_args()
    bounds = {**PRESETS["cliff"], "N": (PRESETS["cliff"]["N"][0], arguments.most_pairs)}
    setup = setup_of(arguments.source)
    _, design = LHSSampler(Space(bounds), SEED, arguments.samples).rows(0, arguments.samples)
    costs, walls, outcomes = stage_costs([ExplorationSample.inflate(i, row) for i, row in enumerate(design)], setup)
    workers = len(os.sched_getaffinity(0))
    rate = per_hour(design, setup, workers)
    mean = statistics.fmean(walls)
    processor = float(sum(cost[1] for cost in costs.values()))
    print("stage                              ms a sample   share   CPU ms   share")
    for stage, (wall, cpu) in costs.items():
        print(f"{stage:34s} {1e3 * wall:11.2f} {wall / mean:7.3f} {1e3 * cpu:8.2f} {cpu / processor:7.3f}")
    median, slow = statistics.median(walls), float(np.quantile(walls, 0.95))
    print(f"{'all':34s} {1e3 * mean:11.2f} {1e3 * processor:16.2f}")
    print(f"by the clock: median {1e3 * median:.2f} ms, 95 % below {1e3 * slow:.2f} ms")
    print("outcomes: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()))
    print(f"{rate:.0f} samples an hour, {workers} workers on {workers} cores, "
          f"{rate / EARLIER_PER_HOUR:.0f} times the earlier system's estimate for 16")  # fmt: skip
    if arguments.json:
        print(json.dumps({
            "name": "sample_cost", "source": arguments.source,
            "value": rate, "unit": "samples/hour", "peer": "earlier system, estimate, 16 cores",
            "peer_value": EARLIER_PER_HOUR, "ratio": rate / EARLIER_PER_HOUR, "cores": workers,
            "samples": len(walls), "seconds_mean": mean, "seconds_median": median, "seconds_p95": slow,
            "cpu_seconds_mean": processor, "stages": {stage: cost.tolist() for stage, cost in costs.items()},
            "outcomes": dict(outcomes),
        }))  # fmt: skip


if __name__ == "__main__":
    main()
