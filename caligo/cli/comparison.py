"""What the cliff becomes with what is assumed: a campaign's rows under every claim."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from rich.table import Table

from caligo.cli.output import console, print_json
from caligo.cli.rows import print_lines
from caligo.dataset import row_columns
from caligo.errors import InvalidArgument
from caligo.phases import Phase
from caligo.physics import claims
from caligo.physics.claims import CLAIMS, LEGACY, Claim
from caligo.recompute import KeyStatus, Recomputed, recompute, refusal
from caligo.results import ResultRows
from caligo.spec import CampaignSpec

_SHOWN: Final = ("key", "undecoded", "frame_lost", "unknown", "key_bits")


@dataclasses.dataclass(frozen=True)
class UnderClaim:
    """A campaign's rows under a claim.

    Attributes:
        claim: the claim.
        why_not: why the rows say nothing under it; None where they do.
        rows: the rows under it; None where they say nothing.
    """

    claim: Claim
    why_not: str | None
    rows: Recomputed | None

    @property
    def numbers(self) -> dict[str, int]:
        """Rows by the name of their `KeyStatus`, in lower case, and all key bits; empty where they say nothing."""
        if self.rows is None:
            return {}
        counted = {status.name.lower(): int(np.count_nonzero(self.rows.status == status)) for status in KeyStatus}
        return {**counted, "key_bits": int(self.rows.key_length[self.rows.status == KeyStatus.KEY].sum())}


def named(name: str) -> Claim:
    """The claim of a name that a person gave.

    Raises:
        InvalidArgument: there is none.
    """
    try:
        return claims.claim(name)
    except ValueError as error:
        raise InvalidArgument("--claim", str(error)) from None


def compare(rows: ResultRows, spec: CampaignSpec, chosen: Iterable[Claim] = ()) -> list[UnderClaim]:
    """The rows under the claims chosen; by default under all, and of release 0.1 under the rules of then first."""
    old = LEGACY.values() if spec.physics.claim in LEGACY else ()
    found = []
    for claim in chosen or (*old, *CLAIMS.values()):
        why_not = refusal(spec, claim)
        found.append(UnderClaim(claim, why_not, None if why_not else recompute(rows, spec, claim)))
    return found


def print_comparison(found: Sequence[UnderClaim], spec: CampaignSpec, *, json: bool) -> None:
    """A line a claim: how many rows have a key, and how many key bits they are."""
    if json:
        for one in found:
            print_json(
                {
                    "claim": one.claim.name,
                    "status": str(one.claim.status),
                    "own": one.claim.name == spec.physics.claim,
                    "why_not": one.why_not,
                    **one.numbers,
                }
            )
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("CLAIM", "STATUS"):
        table.add_column(heading, no_wrap=True)
    for heading in ("KEYS", "UNDECODED", "LOST", "UNKNOWN", "KEY BITS"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for one in found:
        numbers = [f"{one.numbers[name]:,}" for name in _SHOWN] if one.numbers else ["n/a", *[""] * (len(_SHOWN) - 1)]
        remark = one.why_not or ("the campaign's own" if one.claim.name == spec.physics.claim else "")
        table.add_row(one.claim.name, str(one.claim.status), *numbers, remark)
    console.print(table)
    notes = {
        "undecoded": "UNDECODED: ended before decoding, since the campaign's own claim left nothing; each has a key "
        f"unless a frame fails ({spec.protocol.reconciliation_failure:g})",
        "frame_lost": "LOST: Alice has two keys and Bob has none",
        "unknown": "UNKNOWN: not simulated, or ended before its public bits were counted and may have had a key",
    }
    for name, note in notes.items():
        if any(one.numbers.get(name) for one in found):
            console.print(note, soft_wrap=True)


def print_rows_under(found: Iterable[UnderClaim], by_phase: dict[Phase, ResultRows], *, json: bool) -> None:
    """A line a row and claim: JSON objects, or tab-separated under a heading."""
    print_lines(_row_lines(found, by_phase), json=json)


def _row_lines(found: Iterable[UnderClaim], by_phase: dict[Phase, ResultRows]) -> Iterator[dict[str, Any]]:
    phases = np.repeat([phase.name.lower() for phase in by_phase], [len(rows) for rows in by_phase.values()])
    columns = row_columns(np.concatenate(list(by_phase.values())))
    for one in found:
        if one.rows is None:
            continue
        for i, phase in enumerate(phases):
            yield {
                "claim": one.claim.name,
                "phase": str(phase),
                **{name: columns[name][i].item() for name in ("index", "strategy", "outcome", "reason")},
                "key": KeyStatus(one.rows.status[i]).name.lower(),
                "margin": float(f"{one.rows.margin[i]:.9g}"),
                "key_length": int(one.rows.key_length[i]),
            }
