"""What few simulations say of the cliff, with the closed form as prior and without, on the real simulator.

Brier score of "there is a key" on the first rows of the held-out design of `benchmarks.cliff_rows`, over the whole
`cliff` space, after fits to the first 25, 50 and 100 simulations of a Latin hypercube, and of the closed form alone (0
simulations). In two worlds: the device that the closed form is told, and one that it does not know. Nobody chooses
rows here: that is `benchmarks.cliff_finding`. The ratio is that of the constant prior's score over the closed form's
prior, after about 50 simulations of the known device.

    python -m benchmarks.closed_form_prior --held-out 300 --seeds 1 2 --json
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Final, get_args

import numpy as np
import torch
from caligo_sampler.design import LHSSampler
from caligo_surrogate.device import Device
from caligo_surrogate.landscape import EfficiencyLandscape
from scipy.stats import norm
from sklearn.metrics import brier_score_loss

from benchmarks import cliff_rows
from benchmarks.cliff_rows import SPACE, SPEC, WORLDS, World
from caligo import logs
from caligo.closed_form import expect
from caligo.phases import Phase
from caligo.results import ResultRows, measured, metric, simulated, succeeded
from caligo.spec import GuardrailSpec, SurrogateSpec

COUNTS: Final = (25, 50, 100)
PRIORS: Final = get_args(SurrogateSpec.model_fields["prior"].annotation)
INTERVALS: Final = (0.5, 0.9, 0.95)


def held_out(world: World, size: int) -> ResultRows:
    """The first rows of the held-out design."""
    index, inputs = LHSSampler(SPACE, cliff_rows.HELD_OUT_SEED, cliff_rows.FEW_HELD_OUT).rows(0, size)
    return cliff_rows.simulate(inputs, index, cliff_rows.HELD_OUT_SEED, Phase.LHS, world=world)


def first(rows: ResultRows, simulations: int) -> ResultRows:
    """Rows up to so many simulated ones."""
    return rows[: int(np.searchsorted(np.cumsum(simulated(rows)), simulations)) + 1]


def judged(rows: ResultRows, prior: str, judge: ResultRows) -> tuple[float, list[float], float]:
    """Brier score, coverage of the central intervals of measured rows, seconds of the fit."""
    spec = SurrogateSpec(prior=prior)
    guardrail = GuardrailSpec(enabled=False)
    landscape = EfficiencyLandscape(SPACE, spec, guardrail, SPEC.physics, SPEC.protocol, 0, Device("cpu"))
    landscape.observe(Phase.LHS, rows)
    began = time.process_time()
    for _ in landscape.fit():
        pass
    seconds = time.process_time() - began
    found = landscape.predict(judge["inputs"])
    z = (np.abs(metric(judge, "margin") - found.mean) / found.sd)[measured(judge)]
    coverage = [float(np.mean(z < norm.ppf(0.5 + share / 2))) for share in INTERVALS]
    return float(brier_score_loss(succeeded(judge), found.key)), coverage, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--held-out", type=int, default=cliff_rows.FEW_HELD_OUT, help="rows to judge by, up to 1,500")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2], help="of the Latin hypercubes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logs.configure("error")
    scores: dict[str, dict[str, dict[int, list[float]]]] = {}
    for world in WORLDS.values():
        judge = held_out(world, arguments.held_out)
        alone = brier_score_loss(succeeded(judge), expect(judge["inputs"], SPEC.physics, SPEC.protocol).key)
        scores[world.name] = {"closed form alone": {0: [float(alone)]}}
        print(f"{world.name:8s} closed form alone      0 simulations: {alone:.4f}", flush=True)
        for prior in PRIORS:
            by_count = scores[world.name].setdefault(prior, {n: [] for n in COUNTS})
            for seed in arguments.seeds:
                rows = cliff_rows.latin_hypercube(seed, COUNTS[-1], world=world)
                for n in COUNTS:
                    brier, coverage, seconds = judged(first(rows, n), prior, judge)
                    by_count[n].append(brier)
                    inside = " ".join(f"{share:.2f}" for share in coverage)
                    print(
                        f"{world.name:8s} {prior:18s} {n:5d} simulations: {brier:.4f}, inside {inside}, "
                        f"fit {seconds:.1f} s CPU",
                        flush=True,
                    )
    if arguments.json:
        known = scores[cliff_rows.KNOWN.name]
        value, peer = (float(np.mean(known[prior][50])) for prior in ("closed_form", "constant"))
        print(json.dumps({
            "name": "closed_form_prior", "value": value, "unit": "Brier score after 50 simulations",
            "peer": "constant prior", "peer_value": peer, "ratio": peer / value, "scores": scores,
        }))  # fmt: skip


if __name__ == "__main__":
    main()
