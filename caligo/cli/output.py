"""What commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from json import dumps
from typing import Any, Final

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from caligo import statement
from caligo.client import Campaign, CampaignState, Changed, Event, Noted, Progressed
from caligo.discrepancy import Discrepancy
from caligo.errors import InvalidArgument
from caligo.spec import CampaignSpec
from caligo.v1 import campaign_pb2, surrogate_pb2, types_pb2

console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
notices = Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """One JSON object, one line; NaN becomes null."""
    sys.stdout.write(dumps(_finite(value), allow_nan=False) + "\n")
    sys.stdout.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_plain(message: Message) -> dict[str, Any]:
    """A message as plain values: integers stay integers, float32 keeps its shortest digits, enums go by name."""
    plain: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        plain[field.name] = [_value(field, v) for v in value] if field.is_repeated else _value(field, value)
    return plain


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return to_plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return _short_name(known.name, field.enum_type.name) if known else f"code_{value}"
    return shortest(value) if field.type == FieldDescriptor.TYPE_FLOAT else value


def _short_name(constant: str, enum_name: str) -> str:
    """`PHASE_ACTIVE` of `Phase` as `active`."""
    return constant.removeprefix(f"{enum_name.upper()}_").lower()


def shortest(value: float | np.floating) -> float:
    """A float32 as the shortest decimal that stands for it: 0.1, not 0.10000000149."""
    return float(str(np.float32(value)))


def phase_name(phase: types_pb2.Phase) -> str:
    return {types_pb2.PHASE_LHS: "Latin hypercube", types_pb2.PHASE_SURROGATE: "surrogate training",
            types_pb2.PHASE_ACTIVE: "active learning"}.get(phase, "waiting")  # fmt: skip


def campaign_to_plain(campaign: Campaign) -> dict[str, Any]:
    """A campaign as `--json` shows it."""
    return {
        "name": campaign.name,
        "owner": campaign.owner,
        "state": campaign.state.name.lower(),
        "priority": campaign.priority,
        "created": campaign.created.isoformat(),
        "updated": campaign.updated.isoformat(),
        "progress": to_plain(campaign.progress),
        "problem": to_plain(campaign.problem) if campaign.problem else None,
        "findings": to_plain(campaign.findings) if campaign.findings else None,
        "rules": campaign.spec.rules,
        "statement": dict(statement.summary(campaign.spec)),
        "spec": campaign.spec.model_dump(mode="json"),
    }


def event_to_plain(event: Event) -> dict[str, Any]:
    """An event as a line of `caligo watch --json`."""
    plain: dict[str, Any] = {"sequence": event.sequence, "time": event.time.isoformat()}
    match event:
        case Changed(campaign=campaign):
            return {**plain, "event": "changed", "campaign": campaign_to_plain(campaign)}
        case Progressed(progress=progress):
            return {**plain, "event": "progress", "progress": to_plain(progress)}
        case Noted(text=text):
            return {**plain, "event": "note", "text": text}
        case _:
            return {**plain, "event": "heartbeat"}


def print_spec(spec: CampaignSpec, *, json: bool) -> None:
    """A whole spec, with what it claims."""
    plain: dict[str, Any] = spec.model_dump(mode="json")
    if json:
        print_json(plain)
        return
    from caligo import yaml12

    for label, text in statement.summary(spec):
        print(f"# {label}: {text}")
    print(yaml12.dump(plain), end="")


def print_state(campaign: Campaign, *, json: bool) -> None:
    """The state alone; as JSON all of the campaign."""
    if json:
        print_json(campaign_to_plain(campaign))
    else:
        console.print(f"{campaign.name}: {campaign.state.name.lower()}")


def parse_state(text: str) -> CampaignState:
    """The state that `--state` names.

    Raises:
        InvalidArgument: there is no such state.
    """
    states = {state.name.lower(): state for state in CampaignState if state}
    if text.lower() not in states:
        raise InvalidArgument("--state", f"must be one of {', '.join(states)}, not {text!r}")
    return states[text.lower()]


def print_campaign(campaign: Campaign, *, json: bool) -> None:
    """One campaign."""
    if json:
        print_json(campaign_to_plain(campaign))
        return
    table = pairs()
    table.add_row("campaign", campaign.name)
    table.add_row("called", campaign.spec.name)
    if campaign.owner:
        table.add_row("owner", campaign.owner)
    for label, text in statement.summary(campaign.spec):
        table.add_row(label, text)
    table.add_row("state", campaign.state.name.lower())
    table.add_row("priority", f"{campaign.priority}")
    if not campaign.spec.active.skip:
        table.add_row("budget", f"{campaign.spec.active.samples:,} rows of active learning")
    if campaign.problem:
        table.add_row("problem", campaign.problem.message)
    table.add_row("created", f"{campaign.created:%Y-%m-%d %H:%M:%S} UTC")
    progress = campaign.progress
    if not campaign.state.is_final:
        table.add_row("phase", f"{phase_name(progress.phase)}, {progress.done:,} of {progress.total:,}")
    if progress.simulated or progress.skipped:
        table.add_row("rows", counts_line(progress))
    console.print(table)
    if campaign.findings:
        print_findings(campaign.findings)


def print_campaigns(campaigns: list[Campaign]) -> None:
    """A line a campaign."""
    table = Table(box=None, pad_edge=False)
    numbers = ("PRIORITY", "DONE", "SIMULATED", "SUCCEEDED")
    for heading in ("CAMPAIGN", "OWNER", "STATE", "PRIORITY", "PHASE", *numbers[1:], "CREATED (UTC)"):
        table.add_column(heading, justify="right" if heading in numbers else "left", no_wrap=True)
    for c in campaigns:
        p = c.progress
        table.add_row(
            c.id,
            c.owner or "-",
            c.state.name.lower(),
            f"{c.priority}",
            "-" if c.state.is_final else phase_name(p.phase),
            f"{p.done:,}/{p.total:,}" if p.total and not c.state.is_final else "-",
            f"{p.simulated:,}",
            f"{p.succeeded:,}",
            f"{c.created:%Y-%m-%d %H:%M}",
        )
    console.print(table)


def say_rules(specs: Mapping[str, CampaignSpec]) -> None:
    """On standard error, under which rules of another release campaigns were made, a line for each set of rules.

    Args:
        specs: of the campaigns by name.
    """
    made: dict[str, list[str]] = {}
    for name, spec in specs.items():
        if spec.rules is not None:
            made.setdefault(spec.rules, []).append(name)
    for rules, names in made.items():
        notices.print(f"{', '.join(names)}: {rules}", soft_wrap=True, markup=False)


def counts_line(progress: campaign_pb2.Progress) -> str:
    """`120 simulated: 60 with a key, 60 without; 30 skipped`."""
    return (
        f"{progress.simulated:,} simulated: {progress.succeeded:,} with a key, "
        f"{progress.failed:,} without; {progress.skipped:,} skipped"
    )


_PRIORS: Final = {"closed_form": "the closed form of a run", "constant": "nothing"}
"""What a surrogate knows before its first row."""


def findings_pairs(findings: campaign_pb2.Findings) -> list[tuple[str, str]]:
    """The numbers that matter, as label and text."""
    measured = findings.simulated - findings.faults
    skipped = findings.skipped_infeasible + findings.skipped_predicted
    relevant = [
        f"{symbol} ({scale:.2g})"
        for symbol, scale in zip(findings.relevant_parameters, findings.length_scales, strict=False)
    ]
    pairs = [
        ("simulations", f"{findings.simulated:,}"),
        (
            "skipped",
            f"{skipped:,} ({findings.skipped_infeasible:,} by the closed form, "
            f"{findings.skipped_predicted:,} by the guardrail{_saved(findings)})",
        ),
        ("success rate", f"{findings.succeeded / max(measured, 1):.1%} of the simulated"),
        (
            "key rate",
            f"best {findings.best_efficiency:.3g}, median {findings.median_efficiency:.3g} key bits a pair",
        ),
        ("secure share", f"{findings.secure_fraction:.1%} ± {findings.secure_fraction_error:.1%} of the space"),
        ("starts from", _PRIORS.get(findings.prior, "-")),
        ("matter most", relevance_text(findings.relevance) if findings.relevance else ", ".join(relevant[:4]) or "-"),
    ]
    if findings.HasField("discrepancy"):
        pairs.append(("against theory", Discrepancy.from_message(findings.discrepancy).sentence))
    if findings.faults:
        pairs.insert(1, ("faults", f"{findings.faults:,} simulations ran out of time or broke and count for nothing"))
    for label, field in (("held-out rows", "validation"), ("cross-validation", "cross_validation")):
        if findings.HasField(field):
            v = getattr(findings, field)
            alone = f"; the closed form alone {v.closed_form_brier:.3f}" if v.HasField("closed_form_brier") else ""
            pairs.append((label, f"F1 {v.f1:.3f}, Brier {v.brier:.3f}{alone}, on {v.rows:,} rows"))
    if findings.HasField("convergence"):
        pairs.append(("boundary", convergence_text(findings.convergence)))
    if findings.HasField("calibration"):
        c = findings.calibration
        pairs.append(
            (
                "foretold",
                f"{c.coverage50:.1%} inside the 50% interval, {c.coverage90:.1%} inside 90%, {c.coverage95:.1%} "
                f"inside 95%, mean z {c.mean_z:+.2f}, on {c.rows:,} rows",
            )
        )
    if findings.HasField("guardrail"):
        pairs.append(("guardrail", guardrail_text(findings.guardrail)))
    return pairs


def relevance_text(relevance: Iterable[surrogate_pb2.Relevance]) -> str:
    """The parameters that matter most, with their shares of the variance, as one line."""
    strongest = sorted(relevance, key=lambda one: -one.total)[:4]
    shares = ", ".join(f"{r.parameter} {r.total:.1%} ± {1.96 * r.total_error:.1%}" for r in strongest)
    return f"{shares} of the target's variance over the space, with what each does together with others"


def convergence_text(convergence: campaign_pb2.Convergence) -> str:
    """How still the boundary stood when phase 3 ended, as one line."""
    ended = "has converged" if convergence.converged else "the budget was spent first"
    if convergence.HasField("changed_share"):
        ended += f"; {convergence.changed_share:.2%} of the space changed sides over the last batches"
    return f"{ended}; expected Brier {convergence.expected_brier:.4f} after {convergence.batches:,} batches"


def _saved(findings: campaign_pb2.Findings) -> str:
    if not findings.skipped_predicted or not findings.HasField("seconds_saved"):
        return ""
    saved, error, spent = findings.seconds_saved, findings.seconds_saved_error, findings.seconds_simulated
    return f", which saved {saved:.3g} ± {1.96 * error:.2g} s on top of {spent:.3g} s simulated"


def guardrail_text(state: surrogate_pb2.GuardrailState) -> str:
    """What the guardrail does and how often it is wrong, as one line."""
    reason = "closed form alone" if state.mode == "closed_form" else state.mode.replace("_", " ")
    does = f"skips above {state.threshold:.4g} ({reason})" if state.active else f"skips nothing ({reason})"
    if state.evidence:
        does += (
            f"; {state.false_skips:,} of {state.evidence:,} unseen rows above {state.threshold:.4g} had a key "
            f"({state.false_audits:,} of {state.audits:,} audits): at most {state.false_skip_bound:.2%} at 95 %"
        )
    return f"{does}; the table of real runs is not used: {state.table_refused}" if state.table_refused else does


def print_findings(findings: campaign_pb2.Findings, *more: tuple[str, str]) -> None:
    """The numbers that matter, for people."""
    table = pairs()
    for label, text in (*findings_pairs(findings), *more):
        table.add_row(label, text)
    console.print(table)


def pairs() -> Table:
    """A table of labels and texts."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table
