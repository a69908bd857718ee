"""Runs that the closed form alone gives up: which are not worth a simulation, and the evidence for it.

The closed form of a run has its probability of failure at every point (`caligo.closed_form`). How often a run that it
gives up has a key all the same was measured: a table that ships counts real runs by that probability, for each claim,
memory model and strategy, of one version of the simulator and one EPR source (`benchmarks.doomed_runs` makes it). Where
it proves that no more skips are wrong than the spec allows, rows are skipped from the first one on.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import caligo
from caligo import seeds
from caligo.closed_form import expect
from caligo.phases import Phase
from caligo.physics import claims
from caligo.seeds import Purpose
from caligo.space import STRATEGY_COLUMN
from caligo.spec import GuardrailSpec, PhysicsSpec, ProtocolSpec

TABLE: Final = Path(__file__).with_name("doomed_runs.json")
FORMAT: Final = "caligo.doomed-runs/1"
THRESHOLDS: Final = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)
"""Probabilities of failure above which the table counts runs, each with those above the next."""
LOG_ODDS: Final = np.log(THRESHOLDS) - np.log1p(-np.array(THRESHOLDS))
"""The same as log-odds, float64 [thresholds]."""
ERROR: Final = 0.05
"""Of the one-sided bounds on the false-skip rate: they hold with 95 %."""
_AUDIT_BLOCK: Final = 1024
_LOWER: Final = np.square((np.arange(256) + 0.5) / 256)
"""Rates that one is compared with, as shares of it."""
_SUREST: Final = 40.0
"""Log-odds beyond which nobody need be told apart."""

Counts = NDArray[np.int64]
"""Runs above each of `THRESHOLDS`, by strategy: int64 [2, thresholds]."""


class Verdict(enum.IntEnum):
    """What becomes of a candidate; the codes are the contract's."""

    SIMULATE = 0
    SKIP = 1
    AUDIT = 2
    """It would be skipped, and is simulated to see who is right."""


class TableError(Exception):
    """The table is not one that this release can use; says why."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Real runs by the closed form's probability of failure.

    Attributes:
        version: of the software whose simulator made the runs.
        source: EPR source.
        cells: by (partition, claim, memory model): runs above each threshold, and how many of them had a key.
    """

    version: str
    source: str
    cells: dict[tuple[str, str, str], tuple[Counts, Counts]]

    @classmethod
    def read(cls, path: Path) -> Table:
        """The table in a file.

        Raises:
            TableError: it cannot be read, is damaged, or of another format.
        """
        try:
            content = json.loads(path.read_text("utf-8"))
            body = content["table"]
            if content["format"] != FORMAT or body["thresholds"] != list(THRESHOLDS):
                raise TableError(f"it is not in the format {FORMAT}")
            if content["sha256"] != _digest(body):
                raise TableError("it is damaged")
            cells = {
                (cell["partition"], cell["claim"], cell["memory_model"]): (_counts(cell["rows"]), _counts(cell["keys"]))
                for cell in body["cells"]
            }
            return cls(body["version"], body["source"], cells)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TableError(f"it cannot be read ({type(error).__name__})") from None

    def write(self, path: Path) -> None:
        """Make the file that `read` reads."""
        cells = [
            {"partition": partition, "claim": claim, "memory_model": memory, "rows": n.tolist(), "keys": k.tolist()}
            for (partition, claim, memory), (n, k) in self.cells.items()
        ]
        body = {"version": self.version, "source": self.source, "thresholds": list(THRESHOLDS), "cells": cells}
        content = {"format": FORMAT, "sha256": _digest(body), "table": body}
        path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")

    def of(self, physics: PhysicsSpec, protocol: ProtocolSpec) -> tuple[Counts, Counts]:
        """Runs and keys for a campaign's settings.

        Raises:
            TableError: there are none.
        """
        if self.version != caligo.__version__:
            raise TableError(f"it was measured with version {self.version}, this is {caligo.__version__}")
        if self.source != protocol.epr_source:
            raise TableError(f"it was measured with the EPR source {self.source}, not {protocol.epr_source}")
        if physics.device.in_rounds() is not None:
            raise TableError("it was measured with the ideal device")
        cell = self.cells.get((protocol.partition, physics.claim, physics.memory_model))
        if cell is None:
            raise TableError(
                f"it has no runs under the claim {physics.claim} with the partition {protocol.partition} "
                f"and the memory model {physics.memory_model}"
            )
        return cell


@dataclasses.dataclass(frozen=True)
class Screen:
    """Skips by the closed form's probability of failure.

    Attributes:
        threshold: by strategy, that the probability has to exceed, float64 [2]; infinite where nothing is proved.
        evidence, false_skips: runs above it, of the table and the campaign's own, and how many of them had a key.
        audits, false_audits: of these, the campaign's own.
        false_skip_bound: on the share of runs above it that have a key, the larger of both strategies'; 1 without any.
        refused: why the table is not used, a clause; None where it is.
    """

    threshold: NDArray[np.float64]
    evidence: int = 0
    false_skips: int = 0
    audits: int = 0
    false_audits: int = 0
    false_skip_bound: float = 1.0
    refused: str | None = None

    @property
    def is_active(self) -> bool:
        """Whether anything is skipped."""
        return bool(np.isfinite(self.threshold).any())

    def dooms(self, log_odds: NDArray[np.float64], inputs: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which rows are not worth a simulation, bool [n].

        Args:
            log_odds: float64 [n], `failure_log_odds` of the rows.
            inputs: float32 [n, 9], model coordinates.
        """
        return log_odds > _logit(self.threshold)[strategies(inputs)]


def screen(
    guardrail: GuardrailSpec,
    physics: PhysicsSpec,
    protocol: ProtocolSpec,
    own: tuple[Counts, Counts] | None = None,
) -> Screen:
    """What the closed form may skip in a campaign, by the table and the campaign's own runs.

    For each strategy the lowest of `THRESHOLDS`, the spec's or higher, at which the bound holds, with an error that is
    shared out among them (Bonferroni). Where the campaign's own runs, which an audit had simulated, refute the table,
    they decide.

    Args:
        own: the campaign's simulated runs, `counts`; None before there is any.
    """
    if not guardrail.enabled:
        return refused("the guardrail is switched off")
    try:
        if physics.claim not in claims.CLAIMS:
            raise TableError(f"the closed form is not defined for the claim {physics.claim}")
        table_rows, table_keys = Table.read(TABLE).of(physics, protocol)
    except TableError as error:
        return refused(str(error))
    own_rows, own_keys = own or (np.zeros_like(table_rows), np.zeros_like(table_rows))
    evidence = np.stack([table_rows + own_rows, table_keys + own_keys, own_rows, own_keys], axis=-1)
    thresholds = np.array(THRESHOLDS)
    allowed = thresholds >= guardrail.threshold
    risk = ERROR / max(1, int(allowed.sum()))
    bound = np.array([[false_skip_bound(n, k, a, f, risk) for n, k, a, f in of] for of in evidence.tolist()])
    proved = (bound <= guardrail.max_false_skip_rate) & allowed
    which, lowest = proved.any(axis=1), proved.argmax(axis=1)
    if not which.any():
        return refused("it does not prove that as few skips are wrong as the spec allows")
    at = np.flatnonzero(which), lowest[which]
    rows, keys, audits, false_audits = evidence[at].sum(axis=0).tolist()
    threshold = np.where(which, thresholds[lowest], np.inf)
    return Screen(threshold, rows, keys, audits, false_audits, float(bound[at].max()))


def refused(why: str) -> Screen:
    """A screen that skips nothing."""
    return Screen(np.full(2, np.inf), refused=why)


def counts(
    log_odds: NDArray[np.float64], inputs: NDArray[np.float32], has_key: NDArray[np.bool_]
) -> tuple[Counts, Counts]:
    """Runs above each threshold and how many of them have a key, of rows [n], `inputs` in model coordinates."""
    above = log_odds > LOG_ODDS[:, None]
    of = strategies(inputs) == np.arange(2)[:, None, None]
    return (of & above).sum(-1), (of & above & has_key).sum(-1)


def failure_log_odds(inputs: NDArray[np.float32], physics: PhysicsSpec, protocol: ProtocolSpec) -> NDArray[np.float64]:
    """Log-odds of a run without a key in closed form, float64 [n], of rows [n, 9] in model coordinates.

    0, as much as nothing, under a claim for which the closed form is not defined.
    """
    if physics.claim not in claims.CLAIMS:
        return np.zeros(len(inputs))
    return np.clip(-_logit(expect(inputs, physics, protocol).key), -_SUREST, _SUREST)


def strategies(inputs: NDArray[np.float32]) -> NDArray[np.intp]:
    """The strategy of rows [n, 9] in model coordinates, int [n]."""
    return (inputs[:, STRATEGY_COLUMN] > 0.5).astype(np.intp)


def verdicts(
    doomed: NDArray[np.bool_], spec: GuardrailSpec, seed: int, phase: Phase, index: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Codes of `Verdict`, uint8 [n]: of the doomed rows, bool [n], an audit spares `audit_fraction` by their index."""
    # One leaf a block of indices: making a generator takes far longer than a draw.
    block, place = np.divmod(index[doomed], _AUDIT_BLOCK)
    blocks, row = np.unique(block, return_inverse=True)
    draws = [seeds.generator(seed, phase, int(b), Purpose.AUDIT).random(_AUDIT_BLOCK) for b in blocks]
    found = np.full(len(doomed), Verdict.SIMULATE, dtype=np.uint8)
    spared = np.reshape(draws, (-1, _AUDIT_BLOCK))[row, place] < spec.audit_fraction
    found[doomed] = np.where(spared, Verdict.AUDIT, Verdict.SKIP)
    return found


def false_skip_bound(rows: int, keys: int, audits: int, false_audits: int, error: float = ERROR) -> float:
    """On the share of the runs above a threshold that have a key; 1 without runs.

    Audited runs are among the others, and the only fair sample of what a campaign skips: where they alone refute the
    bound of all, they decide.
    """
    return max(upper_bound(rows, keys, error), lower_bound(audits, false_audits, error))


def upper_bound(rows: int, keys: int, error: float = ERROR) -> float:
    """Above the rate of keys among runs, in (0, 1], but for the error, however often one looks; 1 without runs.

    Robbins' method of mixtures (Ann. Math. Stat. 41, 1397 (1970)): a rate p is refuted where the likelihood of rates
    p u^2, u spread evenly over [0, 1], is on average more than 1 / error times its own. For each of these the ratio is
    a supermartingale where the rate is p or more, so by Ville's inequality that ever happens with at most the error.
    """
    if not rows or keys == rows:
        return 1.0
    logarithms = keys * np.log(_LOWER)

    def is_refuted(p: float) -> bool:
        ratios = logarithms + (rows - keys) * (np.log1p(-p * _LOWER) - math.log1p(-p))
        most = ratios.max()
        return bool(most + math.log(np.exp(ratios - most).mean()) > -math.log(error))

    low, high = keys / rows, 1.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if is_refuted(middle) else (middle, high)
    return high


def lower_bound(rows: int, keys: int, error: float = ERROR) -> float:
    """Below the rate of keys among runs, in [0, 1), as `upper_bound` above it; 0 without runs."""
    return 1.0 - upper_bound(rows, rows - keys, error)


def _logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 1, np.inf, np.log(p) - np.log1p(-np.minimum(p, 1.0)))


def _counts(values: Any) -> Counts:
    counts = np.array(values, dtype=np.int64)
    if counts.shape != (2, len(THRESHOLDS)):
        raise TableError("it is damaged")
    return counts


def _digest(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
