"""How often a run that the closed form gives up has a key all the same: makes the table of `caligo.screening`.

Runs of the real simulator over the spaces of all presets, drawn so that each band of the closed form's probability of
failure has about as many (a design's own rows would lie far out, where nothing is in question), for both partitions and
memory models, half of them for the default claim. Keys under each claim are computed from a run's counts
(`caligo.recompute`); one that ended before it counted what a claim asks for says nothing under that claim.

    python -m benchmarks.doomed_runs            # 500 runs, to look
    python -m benchmarks.doomed_runs --write    # 20,000: makes caligo/doomed_runs.json, 40 minutes on two cores

Runs are kept in build/doomed-runs, so that an interrupted one goes on; remove the folder when the simulator changes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import secrets
import time
from pathlib import Path
from typing import Final

import numpy as np
from caligo_sampler.design import LHSSampler
from caligo_sampler.feasibility import check_feasibility
from caligo_simulator.harness import Setup
from caligo_simulator.simulation import Simulator
from numpy.typing import NDArray

import caligo
from caligo import logs, screening
from caligo.phases import Phase
from caligo.physics import claims
from caligo.recompute import KeyStatus, recompute
from caligo.results import ROW_DTYPE, ProtocolOutcome, ResultRows, empty_rows
from caligo.screening import Counts
from caligo.space import PRESETS
from caligo.spec import CampaignSpec, PhysicsSpec, ProtocolSpec, SpaceSpec

SEED: Final = 15
DRAWN: Final = 60_000
"""Rows of each preset's space that runs are chosen from."""
SHARES: Final = {("alice", "markov"): 0.5, ("alice", "fixed"): 0.2, ("bob", "markov"): 0.15, ("bob", "fixed"): 0.15}
"""Of the runs, by partition and memory model."""
FOR_THE_TABLE: Final = 26_000
"""Runs drawn; some are drawn for more than one claim, so that 20,000 are made."""
SOURCE: Final = "statistical"
FOLDER: Final = Path(__file__).parents[1] / "build" / "doomed-runs"
BLOCK: Final = 200
Cells = dict[tuple[str, str, str], tuple[Counts, Counts]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--runs", type=int, default=500, help="runs in all")
    parser.add_argument("--write", action="store_true", help="write the table, of 20,000 runs")
    arguments = parser.parse_args()
    logs.configure(level="error")
    runs = FOR_THE_TABLE if arguments.write else arguments.runs
    began = time.perf_counter()
    cells: Cells = {}
    made = 0
    with Simulator(len(os.sched_getaffinity(0)), 2**20, f"doomed-{secrets.token_hex(4)}") as simulator:
        simulator.warm_up()
        for (partition, memory), share in SHARES.items():
            rows = simulated(simulator, partition, memory, round(share * runs))
            made += len(rows)
            for claim in claims_under(partition):
                cells[partition, claim, memory] = counted(rows, partition, memory, claim)
    if arguments.write:
        screening.Table(caligo.__version__, SOURCE, cells).write(screening.TABLE)
    if not arguments.json:
        show(cells)
    at = screening.THRESHOLDS.index(0.99)
    total, keys = (int(counts[:, at].sum()) for counts in cells["alice", claims.DEFAULT, "markov"])
    result = {
        "name": "doomed_runs",
        "value": keys / total,
        "unit": "keys / runs with P(failure) above 0.99 in closed form",
        "peer": "1 - 0.99",
        "peer_value": 0.01,
        "ratio": 100 * keys / total,
        "bound": screening.upper_bound(total, keys),
        "runs": made,
        "seconds": time.perf_counter() - began,
    }
    print(json.dumps(result))


def claims_under(partition: str) -> list[str]:
    return [c.name for c in claims.CLAIMS.values() if partition in c.partitions and c.status is not claims.Status.NONE]


def spec(partition: str, memory: str, claim: str = claims.DEFAULT) -> CampaignSpec:
    return CampaignSpec(
        name="doomed",
        physics=PhysicsSpec.model_validate({"claim": claim, "memory_model": memory}),
        protocol=ProtocolSpec.model_validate({"partition": partition, "max_decoded_frames": 64}),
    )


def simulated(simulator: Simulator, partition: str, memory: str, runs: int) -> ResultRows:
    """Runs of which some claim's closed form gives up each, spread over strategies and bands."""
    inputs = np.concatenate([drawn(preset, number) for number, preset in enumerate(PRESETS)])
    chosen = choice(inputs, partition, memory, runs)
    of = spec(partition, memory)
    setup = Setup(of.name, SEED, Phase.LHS, of.physics, of.protocol)
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / f"{partition}-{memory}.rows"
    rows = np.fromfile(file, ROW_DTYPE) if file.exists() else empty_rows()
    missing = chosen[~np.isin(chosen, rows["index"])]
    for start in range(0, len(missing), BLOCK):
        block = missing[start : start + BLOCK].tolist()
        made = np.concatenate(list(simulator.simulate(setup, [(i, inputs[i]) for i in block])))
        if not all(ProtocolOutcome(outcome).is_physical for outcome in made["outcome"]):
            raise RuntimeError("a run met a time-out or a fault")
        rows = np.concatenate([rows, made])
        with file.open("ab") as kept:
            made.tofile(kept)
    return rows[np.isin(rows["index"], chosen)]


def choice(inputs: NDArray[np.float32], partition: str, memory: str, runs: int) -> NDArray[np.intp]:
    """Which rows to simulate, half of them for the default claim; in an order of which any part is a fair choice."""
    rng = np.random.default_rng(SEED)
    under = claims_under(partition)
    parts = []
    for claim in under:
        wanted = runs / 2 if claim == claims.DEFAULT else runs / 2 / (len(under) - 1)
        of = spec(partition, memory, claim)
        hope = check_feasibility(np.ascontiguousarray(inputs), of.physics) > 0
        log_odds = screening.failure_log_odds(inputs, of.physics, of.protocol)
        band = np.digitize(log_odds, screening.LOG_ODDS)
        blind = screening.strategies(inputs)
        for s, b in itertools.product(range(2), range(1, len(screening.LOG_ODDS) + 1)):
            group = np.flatnonzero(hope & (band == b) & (blind == s))
            parts.append(rng.permutation(group)[: round(wanted / 2 / len(screening.LOG_ODDS))])
    return rng.permutation(np.unique(np.concatenate(parts)))


def drawn(preset: str, number: int) -> NDArray[np.float32]:
    space = SpaceSpec.model_validate({"preset": preset}).resolve()
    return LHSSampler(space, SEED + number, DRAWN).rows(0, DRAWN)[1]


def counted(rows: ResultRows, partition: str, memory: str, claim: str) -> tuple[Counts, Counts]:
    """Runs above each threshold under a claim, and how many of them have a key."""
    of = spec(partition, memory, claim)
    status = recompute(rows, spec(partition, memory), claims.claim(claim)).status
    hope = check_feasibility(np.ascontiguousarray(rows["inputs"]), of.physics) > 0
    known = hope & (status != KeyStatus.UNKNOWN)
    inputs = rows["inputs"][known]
    log_odds = screening.failure_log_odds(inputs, of.physics, of.protocol)
    return screening.counts(log_odds, inputs, np.isin(status[known], (KeyStatus.KEY, KeyStatus.UNDECODED)))


def show(cells: Cells) -> None:
    print("keys / runs with a probability of failure above\n")
    print("| partition | claim | memory | strategy | " + " | ".join(map(str, screening.THRESHOLDS)) + " |")
    print("|--|--|--|--|" + "--|" * len(screening.THRESHOLDS))
    for cell, (rows, keys) in cells.items():
        for strategy, name in enumerate(("baseline", "blind")):
            values = (f"{k} / {n}" for k, n in zip(keys[strategy], rows[strategy], strict=True))
            print("| " + " | ".join((*cell, name, *values)) + " |")


if __name__ == "__main__":
    main()
