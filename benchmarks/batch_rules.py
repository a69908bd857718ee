"""Which rule for the next batch finds the cliff with the fewest runs, and at which price.

Every rule of `surrogate.acquisition` (and the greedy straddle with other weights and on the clipped target) drives the
same surrogate from the same Latin hypercube of 16 runs in batches of 8, one of them under way, guardrail off. What it
has collected is judged by the default model fitted to it, on 1,500 held-out rows: Brier score and F1 of "there is a
key". Also recorded: processor seconds a proposal, and the share of continuous coordinates on an edge of the box.

Runs are those of the real simulator, on a device that nobody is told (`benchmarks.cliff_rows`, `UNKNOWN`); those that
the closed form rules out are free, as in `benchmarks.cliff_finding`. Proposals and scores are kept under
build/batch-rules/, so a stopped run goes on; after a change of a rule remove its files.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import cliff_rows
from benchmarks.cliff_finding import BATCH, Caligo, Collection, Inputs, judge
from benchmarks.cliff_rows import SPACE
from caligo import logs
from caligo.results import ProtocolOutcome, ResultRows, empty_rows
from caligo.space import STRATEGY_COLUMN
from caligo.spec import SurrogateSpec

FOLDER: Final = Path(__file__).parents[1] / "build" / "batch-rules"
WORLD: Final = cliff_rows.UNKNOWN
"""Where everybody is told the device there is nothing to find."""
CHECKPOINTS: Final = (25, 50, 100)
EDGE: Final = 1e-3
"""Unit coordinates nearer than this to 0 or 1 are on an edge."""
CONTENDERS: Final[dict[str, SurrogateSpec]] = {
    "straddle": SurrogateSpec(acquisition="straddle"),
    "straddle, weight 1": SurrogateSpec(acquisition="straddle", straddle_weight=1),
    "straddle, weight 3": SurrogateSpec(acquisition="straddle", straddle_weight=3),
    "straddle, efficiency": SurrogateSpec(acquisition="straddle", target="efficiency"),
    "randomized_straddle": SurrogateSpec(acquisition="randomized_straddle"),
    "joint_straddle": SurrogateSpec(acquisition="joint_straddle"),
    "sur": SurrogateSpec(acquisition="sur"),
}
LHS: Final = "lhs"


class ByRule(Caligo):
    """The surrogate with a spec of its own; notes the processor seconds of every proposal."""

    def __init__(self, seed: int, warm_up: ResultRows, surrogate: SurrogateSpec) -> None:
        super().__init__(seed, warm_up, surrogate)
        self.seconds: list[float] = []

    def propose(self, batch: int) -> Inputs:
        begin = time.process_time()
        proposed = super().propose(batch)
        self.seconds.append(time.process_time() - begin)
        return proposed


def on_edges(inputs: NDArray[np.float32]) -> float:
    """Share of the continuous coordinates of rows [n, 9] that lie on an edge of the box."""
    unit = SPACE.to_unit(inputs)[:, :STRATEGY_COLUMN]
    return float(np.mean((unit < EDGE) | (unit > 1 - EDGE)))


def run(name: str, seed: int, path: Path, held_out: ResultRows) -> dict[str, Any]:
    """Scores of one contender and seed."""
    if path.exists():
        return json.loads(path.read_text())
    scores: dict[str, Any] = {}
    if name == LHS:
        for n in CHECKPOINTS:
            scores[str(n)] = judge(cliff_rows.latin_hypercube(seed, n, world=WORLD), empty_rows(), held_out)
    else:
        collection = Collection(path.with_suffix(".npy"), seed, WORLD)
        made: list[ByRule] = []

        def make(seed: int, warm_up: ResultRows) -> ByRule:
            made.append(ByRule(seed, warm_up, CONTENDERS[name]))
            return made[-1]

        collection.extend(make, CHECKPOINTS[-1], f"{name} {seed}")
        seconds = [s for method in made for s in method.seconds]
        for n in CHECKPOINTS:
            scores[str(n)] = judge(collection.warm_up, collection.up_to(n), held_out)
        scores["seconds"] = float(np.median(seconds)) if seconds else None
        scores["edges"] = on_edges(collection.inputs)
        scores["free"] = float(np.mean(collection.rows["outcome"] == ProtocolOutcome.SKIPPED_INFEASIBLE))
    path.write_text(json.dumps(scores))
    print(f"{name} {seed}: " + ", ".join(f"{n}: {scores[str(n)]['brier']:.4f}" for n in CHECKPOINTS), flush=True)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--rules", nargs="+", choices=(LHS, *CONTENDERS), default=(LHS, *CONTENDERS))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logs.configure("warning")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    held_out = cliff_rows.few_held_out(WORLD)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.rules}
    for seed in arguments.seeds:
        for name in arguments.rules:
            path = arguments.folder / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}.json"
            found[name].append(run(name, seed, path, held_out))

    columns = " ".join(f"Brier {n:4d}  +-    " for n in CHECKPOINTS)
    print(f"\n{'rule':22s} {columns}  F1 {CHECKPOINTS[-1]}  s CPU  edges   free")
    summary: dict[str, Any] = {}
    for name, runs in found.items():
        briers = {n: np.array([scores[str(n)]["brier"] for scores in runs]) for n in CHECKPOINTS}
        mean_of = functools.partial(mean, runs)
        summary[name] = {"brier": {n: v.tolist() for n, v in briers.items()}} | {
            key: mean_of(key) for key in ("seconds", "edges", "free")
        }
        print(
            f"{name:22s} "
            + " ".join(
                f"{v.mean():10.4f} {v.std(ddof=1) / len(v) ** 0.5 if len(v) > 1 else np.nan:.4f} "
                for v in briers.values()
            )
            + f" {np.mean([scores[str(CHECKPOINTS[-1])]['f1'] for scores in runs]):.4f} "
            + " ".join(f"{mean_of(key):6.3f}" for key in ("seconds", "edges", "free"))
        )
    if arguments.json:
        last = CHECKPOINTS[-1]
        scores = {name: float(np.mean(s["brier"][last])) for name, s in summary.items()}
        peer, own = scores.get(LHS), scores.get(SurrogateSpec().acquisition)
        print(json.dumps({
            "name": "batch_rules", "value": own, "unit": f"Brier score after {last} runs", "peer": "Latin hypercube",
            "peer_value": peer, "ratio": own / peer if own and peer else None, "rules": summary, "batch": BATCH,
        }))  # fmt: skip


def mean(runs: list[dict[str, Any]], key: str) -> float:
    values = [scores[key] for scores in runs if scores.get(key) is not None]
    return float(np.mean(values)) if values else float("nan")


if __name__ == "__main__":
    main()
