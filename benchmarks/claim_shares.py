"""The share of space D (the preset `cliff`) that has a key in closed form, by claim and by rules of the protocol.

The same Latin hypercube for every claim and both strategies; a campaign's share is the mean of the two. The first table
has every claim under today's rules; without what one message costs that may not fail (a frame in a hundred dropped for
nothing, a tag a frame); with the leak of release 0.1; and wholly by the rules of release 0.1. The second goes from
there to today, a rule at a time. Beside them stand the shares that docs/physics.md compares with. 20,000 points
take some minutes of two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from typing import Final, NamedTuple

from benchmarks._closed_form import DROPPING, RELEASE_0_1, TODAY, Rules, check, design, secret_bits
from caligo.physics.claims import LEGACY, Partition
from caligo.space import ExplorationSample, Strategy

SEED: Final = 7
CLAIMS: Final[dict[tuple[str, Partition], float | None]] = {
    ("individual", "alice"): 47.5,
    ("individual", "bob"): None,
    ("stw09", "alice"): 52.5,
    ("lupo2023", "alice"): 44.5,
    ("kww2012", "alice"): 28.4,
    ("erven2014", "bob"): 2.6,
}
"""Claims and partitions, and the share in per cent that was computed for release 0.1 or, of the first and third, before
there was a protocol to compute it for."""
COLUMNS: Final = {"today": TODAY, "no one-way cost": DROPPING, "leak of 0.1": RELEASE_0_1}
LAST: Final = "release 0.1"
RELEASE: Final = "release-0.1/"
STEPS: Final = (
    ("release 0.1, lupo2023", RELEASE + "lupo2023", RELEASE_0_1),
    ("the form of individual", "individual", RELEASE_0_1),
    ("nu per round of the key", "individual", RELEASE_0_1._replace(rescaled=True)),
    ("Wilson's limit", "individual", DROPPING),
    ("one tag a string", "individual", DROPPING._replace(tag_a_string=True)),
    ("nothing dropped, every frame by itself", "individual", TODAY._replace(outer=False)),
    ("with the outer code: today", "individual", TODAY),
    ("instead: dropped frames charged", "individual", DROPPING._replace(charged=True)),
)


class Case(NamedTuple):
    """What a share is of."""

    claim: str
    partition: Partition
    rules: Rules
    strategy: Strategy


@cache
def points(count: int) -> list[ExplorationSample]:
    return design(count, SEED)


def share(case: Case, count: int) -> float:
    """Of the space, per cent."""
    keys = (secret_bits(s, case.strategy, case.claim, case.partition, case.rules) >= 1.0 for s in points(count))
    return 100.0 * sum(keys) / count


def shares(cases: Iterable[Case], count: int, processes: int) -> dict[Case, float]:
    """Of all cases; those that are alike once."""
    different = list(dict.fromkeys(cases))
    with ProcessPoolExecutor(processes, multiprocessing.get_context("forkserver")) as pool:
        return dict(zip(different, pool.map(partial(share, count=count), different), strict=True))


def both(claim: str, partition: Partition, rules: Rules) -> list[Case]:
    """Baseline and blind, of whose rules only one can differ."""
    blind = TODAY._replace(rescaled=rules.rescaled)
    return [Case(claim, partition, rules, Strategy.BASELINE), Case(claim, partition, blind, Strategy.BLIND)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    assert all(check(s, strategy, *claim) for s in design(100, 1) for strategy in Strategy for claim in CLAIMS)
    table = {(key, name): both(*key, rules) for key in CLAIMS for name, rules in COLUMNS.items()}
    table |= {
        ((claim, partition), LAST): both(RELEASE + claim, "alice", RELEASE_0_1)
        for claim, partition in CLAIMS
        if RELEASE + claim in LEGACY
    }
    steps = {name: both(claim, "alice", rules) for name, claim, rules in STEPS}
    found = shares((case for cases in [*table.values(), *steps.values()] for case in cases),
                   arguments.points, arguments.processes)  # fmt: skip

    def columns(cases: list[Case]) -> str:
        baseline, blind = (found[case] for case in cases)
        return f"{baseline:9.1f} {blind:6.1f} {mean(cases):6.1f}"

    def mean(cases: list[Case]) -> float:
        return sum(found[case] for case in cases) / len(cases)

    error = 50.0 / math.sqrt(arguments.points)
    print(
        f"{arguments.points} points, standard error at most {error:.2f}; per cent of the space: baseline, blind, mean\n"
    )
    print(f"{'claim, partition':18s}" + "".join(f"{name:>24s}" for name in (*COLUMNS, LAST)) + "   asked about")
    for key, asked in CLAIMS.items():
        cells = " ".join(columns(table[key, name]) if (key, name) in table else 23 * " " for name in (*COLUMNS, LAST))
        print(f"{', '.join(key):18s}{cells}{asked or '':>14}")
    print()
    for name, cases in steps.items():
        print(f"{name:40s}{columns(cases)}")
    if arguments.json:
        today, old = mean(steps["with the outer code: today"]), mean(steps["release 0.1, lupo2023"])
        print(json.dumps({
            "name": "claim_shares", "value": today, "unit": "per cent of the space with a key, individual",
            "peer": "release 0.1, lupo2023", "peer_value": old, "ratio": today / old, "points": arguments.points,
            "claims": {", ".join((*key, name)): mean(cases) for (key, name), cases in table.items()},
            "steps": {name: mean(cases) for name, cases in steps.items()},
        }))  # fmt: skip


if __name__ == "__main__":
    main()
