"""Rows of the real simulator over the `cliff` space, kept in a file so that none is simulated twice.

The simulator and the design are those of the services, in this process, and a row is what a campaign with `SPEC` would
hold: candidates without hope in closed form are recorded as `skipped_infeasible` with the closed form's margin and
cost no simulation. Only one setting of the spec differs from the default: 64 frames a sample are really decoded
instead of 256, which keeps a row cheap; failed frames beyond these are drawn at the measured rate.

`python -m benchmarks.cliff_rows` makes the rows that `benchmarks.guardrail` and `benchmarks.cliff_finding` judge by:
`held_out()` and `training()`, which takes a quarter of an hour on 2 cores. Rows are found again by their inputs and
their place in the seed tree, not by the simulator's version: remove the file after a change of the simulator. Any
number of processes may use one file. A script that calls `simulate` needs the usual `if __name__ == "__main__"`, since
workers are processes.
"""

from __future__ import annotations

import argparse
import atexit
import dataclasses
import functools
import hashlib
import json
import math
import os
import secrets
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np
from caligo_orchestrator.pipeline import skipped_rows
from caligo_sampler.design import LHSSampler
from caligo_sampler.feasibility import check_feasibility
from caligo_simulator.harness import Setup
from caligo_simulator.simulation import Simulator
from numpy.typing import NDArray

from caligo.phases import Phase
from caligo.results import ROW_DTYPE, ProtocolOutcome, ResultRows
from caligo.spec import CampaignSpec, DeviceSpec, PhysicsSpec, ProtocolSpec, validate

SPEC: Final = CampaignSpec(name="cliff-rows", protocol=ProtocolSpec(max_decoded_frames=64))
"""What decides the rows, apart from their seeds."""
SPACE: Final = SPEC.space.resolve()
FOLDER: Final = Path(__file__).parents[1] / "build" / "cliff-rows"
HELD_OUT_ROWS: Final = 4000
HELD_OUT_SEED: Final = 2**32
"""Apart from the small numbers that designs to learn from have as seeds."""
TRAINING_ROWS: Final = 2754
TRAINING_SEED: Final = 1
FEW_HELD_OUT: Final = 1500
"""Rows of the held-out design of a world other than the closed form's own."""
FEASIBLE_SHARE: Final = 0.7357
"""Of the space, by 2^20 rows of a Latin hypercube."""


IDEAL: Final = DeviceSpec()


@dataclasses.dataclass(frozen=True)
class World:
    """What runs, as it differs from what a campaign is told.

    Attributes:
        device: the link that the simulator and the honest parties have, and nobody else knows of.
    """

    name: str
    device: DeviceSpec = IDEAL

    @property
    def physics(self) -> PhysicsSpec:
        return SPEC.physics.model_copy(update={"device": self.device})


KNOWN: Final = World("known")
"""The device is the one that the closed form is told."""
UNKNOWN: Final = World(
    "unknown",
    validate(
        DeviceSpec,
        {
            "round_period_ns": 1000,
            "pairs": {"mean_pairs": 0.01, "leaking_pairs": 1e-3, "alice_efficiency": 0.3, "alice_dark": 1e-6},
            "detectors": {"dead_time_ns": 3000, "afterpulse": 0.02, "afterpulse_decay_ns": 2000},
            "alignment": {"drift": "sine", "drift_amplitude": 0.1, "drift_period_s": 600},
        },
    ),
)
"""Several pairs a gate, detectors that sleep and fire again, analysers that turn: a device that nobody is told of."""
WORLDS: Final = {world.name: world for world in (KNOWN, UNKNOWN)}


def held_out(folder: Path = FOLDER) -> ResultRows:
    """4,000 rows to judge by: one Latin hypercube over the whole space, rows without hope in closed form included.

    These, 26 % of the 4,000, are known not to give a key without a simulation.
    """
    return _whole_design(HELD_OUT_SEED, HELD_OUT_ROWS, folder)


def training(folder: Path = FOLDER) -> ResultRows:
    """2,754 rows to learn from, another Latin hypercube; 2,003 of them are simulated."""
    return _whole_design(TRAINING_SEED, TRAINING_ROWS, folder)


def latin_hypercube(seed: int, simulations: int, folder: Path = FOLDER, world: World = KNOWN) -> ResultRows:
    """A Latin hypercube with this many simulated rows, those without hope in between included."""
    index, inputs = latin_hypercube_design(seed, simulations)
    return simulate(inputs, index, seed, Phase.LHS, folder, world)


def few_held_out(world: World, folder: Path = FOLDER) -> ResultRows:
    """1,500 rows to judge by in any world, one Latin hypercube over the whole space."""
    index, inputs = LHSSampler(SPACE, HELD_OUT_SEED, FEW_HELD_OUT).rows(0, FEW_HELD_OUT)
    return simulate(inputs, index, HELD_OUT_SEED, Phase.LHS, folder, world)


def latin_hypercube_design(seed: int, simulations: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The rows of a Latin hypercube up to the `simulations`-th feasible one: int64 [n], float32 [n, 9].

    The hypercube is as large as it has to be on average, or a little larger.
    """
    size = math.ceil(simulations / FEASIBLE_SHARE)
    while True:
        index, inputs = LHSSampler(SPACE, seed, size).rows(0, size)
        found = np.cumsum(feasible(inputs))
        if found[-1] >= simulations:
            used = int(np.searchsorted(found, simulations)) + 1
            return index[:used], inputs[:used]
        size += simulations - int(found[-1])


def feasible(inputs: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which rows [n, 9] in model coordinates have hope in closed form, and so are simulated."""
    return check_feasibility(np.ascontiguousarray(inputs), SPEC.physics) > 0


def simulate(
    inputs: NDArray[np.float32],
    index: NDArray[np.int64],
    seed: int,
    phase: Phase = Phase.ACTIVE,
    folder: Path = FOLDER,
    world: World = KNOWN,
) -> ResultRows:
    """Result rows, shape [n], in the order of the inputs; what the file does not hold is simulated and added to it.

    Args:
        inputs: float32 [n, 9], model coordinates.
        index: int64 [n], indices in the phase.
        seed: of the campaign, the root of the seed tree.
        world: whose device is simulated; hope is by what the campaign is told.

    Raises:
        RuntimeError: a row met a time-out or a fault, which says nothing about the physics and is not kept.
    """
    rows = np.zeros(len(inputs), dtype=ROW_DTYPE)
    hope = feasible(inputs)
    if not hope.all():
        rows[~hope] = skipped_rows(index[~hope], inputs[~hope], ProtocolOutcome.SKIPPED_INFEASIBLE, SPEC)
    folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(folder / "rows.sqlite", timeout=60, isolation_level=None)) as file:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = NORMAL")
        file.execute("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, row BLOB NOT NULL) WITHOUT ROWID")
        places: dict[int, int] = {}
        for i in np.flatnonzero(hope).tolist():
            held = file.execute("SELECT row FROM rows WHERE key = ?", (_key(world, inputs[i], index[i], seed, phase),))
            found = held.fetchone()
            if found is None:
                places[int(index[i])] = i
            else:
                rows[i] = np.frombuffer(found[0], ROW_DTYPE)[0]
                rows["inputs"][i] = inputs[i]
        if places:
            setup = Setup(SPEC.name, seed, phase, world.physics, SPEC.protocol)
            for row in _simulator().simulate(setup, [(j, inputs[i]) for j, i in places.items()]):
                i = places[int(row["index"][0])]
                if not ProtocolOutcome(row["outcome"][0]).is_physical:
                    raise RuntimeError(f"row {index[i]} of seed {seed}: {ProtocolOutcome(row['outcome'][0]).name}")
                rows[i] = row[0]
                rows["inputs"][i] = inputs[i]
                key = _key(world, inputs[i], index[i], seed, phase)
                file.execute("INSERT OR IGNORE INTO rows VALUES (?, ?)", (key, row.tobytes()))
    return rows


def _key(world: World, row: NDArray[np.float32], index: int, seed: int, phase: Phase) -> bytes:
    rules = SPEC.model_copy(update={"physics": world.physics}).model_dump(mode="json", include={"physics", "protocol"})
    place = json.dumps([rules, seed, phase, int(index)])
    return hashlib.sha256(place.encode() + row.astype("<f4").tobytes()).digest()


@functools.cache
def _simulator() -> Simulator:
    simulator = Simulator(len(os.sched_getaffinity(0)), 2**20, f"cliff-{secrets.token_hex(4)}")
    atexit.register(simulator.close)
    simulator.warm_up()
    return simulator


def _whole_design(seed: int, size: int, folder: Path) -> ResultRows:
    index, inputs = LHSSampler(SPACE, seed, size).rows(0, size)
    return simulate(inputs, index, seed, Phase.LHS, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the file of rows is")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    shares: dict[str, dict[str, float]] = {}
    for name, make in (("held_out", held_out), ("training", training)):
        rows = make(arguments.folder)
        outcomes = Counter(ProtocolOutcome(outcome).name.lower() for outcome in rows["outcome"])
        shares[name] = {outcome: count / len(rows) for outcome, count in outcomes.most_common()}
        print(f"{name}: {len(rows)} rows, " + ", ".join(f"{o} {share:.3f}" for o, share in shares[name].items()))
    if arguments.json:
        seconds = time.perf_counter() - begin
        print(json.dumps({"name": "cliff_rows", "value": seconds, "unit": "s", "peer": None, **shares}))


if __name__ == "__main__":
    main()
