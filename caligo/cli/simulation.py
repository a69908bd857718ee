"""`caligo simulate`: one point, many runs of the protocol, and what the closed form says of them."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from caligo.closed_form import expect
from caligo.physics.finite_key import wilson_upper
from caligo.results import ProtocolOutcome, Reason, ResultRows, count, metric, simulated, succeeded
from caligo.space import ExplorationSample
from caligo.spec import CampaignSpec

if TYPE_CHECKING:
    from caligo.cli.output import Table

_Z = 1.959964
"""Two-sided 95 %."""


@dataclasses.dataclass(frozen=True)
class Runs:
    """Many runs at one point, beside the closed form.

    Attributes:
        runs, keys: simulated to an end of the protocol's own, and with a key.
        faults: ended by a fault or the clock, which says nothing about the physics.
        ends: runs by outcome and reason, in lower case.
        key_low, key_high: Wilson's 95 % interval of the probability of a key.
        margin, margin_sd, margin_error: mean over runs with a margin, from run to run, and of the mean.
        key_bits: mean length of a run's key, runs without one included; key_bits_error: of the mean.
        bits_per_second: the same over the time of a run, wait included; NaN where no `round_period_ns` is told.
        qber, detection_rate: means.
        expected_key, expected_margin, expected_sd: of the closed form.
    """

    runs: int
    keys: int
    faults: int
    ends: dict[str, int]
    key_low: float
    key_high: float
    margin: float
    margin_sd: float
    margin_error: float
    key_bits: float
    key_bits_error: float
    bits_per_second: float
    qber: float
    detection_rate: float
    expected_key: float
    expected_margin: float
    expected_sd: float


def simulate(row: NDArray[np.float32], spec: CampaignSpec, runs: int, workers: int | None) -> Runs:
    """Simulate a point with a simulator in this process and workers of its own.

    Args:
        row: float32 [9], model coordinates.
        runs: how often; run j is row j of phase 1 of the spec's seed.

    Raises:
        InvalidArgument: the spec's EPR source is not installed here.
        ModuleNotFoundError: nor is the simulator.
    """
    import os
    import secrets

    from caligo_simulator.harness import Setup
    from caligo_simulator.simulation import Simulator
    from rich.progress import MofNCompleteColumn, TimeElapsedColumn

    from caligo.cli.display import counting
    from caligo.cli.output import notices
    from caligo.phases import Phase

    number = workers or max(1, len(os.sched_getaffinity(0)))
    setup = Setup("campaigns/simulate", spec.seed, Phase.LHS, spec.physics, spec.protocol)
    found = []
    with (
        Simulator(number, 2**20, f"simulate-{secrets.token_hex(4)}") as simulator,
        counting(notices, "runs", MofNCompleteColumn(), TimeElapsedColumn()) as advance,
    ):
        for result in simulator.simulate(setup, [(j, row) for j in range(runs)]):
            found.append(result)
            advance(len(found), runs)
    return summarise(np.concatenate(found), spec)


def summarise(rows: ResultRows, spec: CampaignSpec) -> Runs:
    """What rows [n] of one point say."""
    ran = rows[simulated(rows)]
    keys, n = int(succeeded(ran).sum()), len(ran)
    low, high = _wilson(keys, n)
    margins = metric(ran, "margin").astype(np.float64)
    margins = margins[np.isfinite(margins)]
    bits = count(ran, "key_length").astype(np.float64)
    theory = expect(rows["inputs"][:1], spec.physics, spec.protocol)
    return Runs(
        runs=n,
        keys=keys,
        faults=len(rows) - n,
        ends=dict(collections.Counter(_end(row) for row in rows).most_common()),
        key_low=low,
        key_high=high,
        margin=_mean(margins),
        margin_sd=_sd(margins),
        margin_error=_sd(margins) / math.sqrt(max(1, margins.size)),
        key_bits=_mean(bits),
        key_bits_error=_sd(bits) / math.sqrt(max(1, n)),
        bits_per_second=_mean(bits) / seconds_of_a_run(rows[0], spec),
        qber=_mean(metric(ran, "qber")[np.isfinite(metric(ran, "qber"))]),
        detection_rate=_mean(metric(ran, "detection_rate")),
        expected_key=float(theory.key[0]),
        expected_margin=float(theory.margin[0]),
        expected_sd=float(theory.sd[0]),
    )


def seconds_of_a_run(row: np.void, spec: CampaignSpec) -> float:
    """N rounds and the wait, s; NaN where the spec does not say how long a round is."""
    sample, period = ExplorationSample.inflate(0, row["inputs"]), spec.physics.device.round_period_ns
    return (sample.N * period + sample.dt_ns) * 1e-9 if period else math.nan


def _end(row: np.void) -> str:
    outcome, reason = ProtocolOutcome(row["outcome"]).name.lower(), Reason(row["reason"]).name.lower()
    return outcome if row["reason"] == Reason.NONE else f"{outcome}, {reason}"


def _wilson(keys: int, runs: int) -> tuple[float, float]:
    """Both limits of a share; the lower one is the upper one of its complement."""
    if not runs:
        return 0.0, 1.0
    return 1.0 - wilson_upper(1.0 - keys / runs, runs, _Z), wilson_upper(keys / runs, runs, _Z)


def _mean(values: NDArray[np.floating]) -> float:
    return float(values.mean()) if values.size else math.nan


def _sd(values: NDArray[np.floating]) -> float:
    return float(values.std(ddof=1)) if values.size > 1 else math.nan


def table(found: Runs) -> Table:
    """For a terminal."""
    from caligo.cli.output import pairs

    shown = pairs()
    shown.add_row("runs", f"{found.runs}" + (f", and {found.faults} that say nothing" if found.faults else ""))
    for end, number in found.ends.items():
        shown.add_row("", f"{number} {end}")
    share = found.keys / found.runs if found.runs else math.nan
    band = f"{found.key_low:.1%} to {found.key_high:.1%}"
    shown.add_row("a key", f"{share:.1%} ({band}); closed form {found.expected_key:.1%}")
    shown.add_row(
        "margin",
        f"{found.margin:.5f} ± {found.margin_error:.5f}, from run to run ± {found.margin_sd:.5f}; closed form"
        f" {found.expected_margin:.5f}, ± {found.expected_sd:.5f}",
    )
    shown.add_row("key bits a run", f"{found.key_bits:,.1f} ± {found.key_bits_error:,.1f}, runs without one included")
    if math.isfinite(found.bits_per_second):
        shown.add_row("key bits a second", f"{found.bits_per_second:,.3g}, the wait included")
    shown.add_row("error rate", f"{found.qber:.5f}")
    shown.add_row("detection rate", f"{found.detection_rate:.5g}")
    return shown
