"""`caligo report`: a Markdown page with figures from a campaign's file alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from caligo import statement, yaml12
from caligo.cli import complain, describe, figures
from caligo.cli.comparison import compare
from caligo.closed_form import expected
from caligo.dataset import GROUPS, SurrogateFindings, open_campaign
from caligo.errors import InvalidArgument
from caligo.phases import Phase
from caligo.physics.claims import CLAIMS, LEGACY
from caligo.physics.tags import collision_bound
from caligo.results import DESCRIPTIONS, ROW_DTYPE, ProtocolOutcome, Reason, ResultRows, code_name, count, metric
from caligo.secure_share import SecureShare, secure_share
from caligo.slices import CliffSlice
from caligo.space import COLUMN_SYMBOLS, PARAMETERS, STRATEGY_COLUMN, Scale, Strategy
from caligo.spec import CampaignSpec, ProtocolSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE: Final = "report.md"


PARTITIONS: Final[dict[str, str]] = {
    "alice": "Alice's bases divide the rounds into the two strings; she permutes each and cuts both to equal length.",
    "bob": "Bob measures in random bases and names the two sets.",
}
MEMORY_MODELS: Final[dict[str, str]] = {
    "markov": "r is the retention over one second and decays on: r_eff = r^(Δt / 1 s).",
    "fixed": "r is the retention after the wait, whatever the wait: Δt changes nothing.",
}
FIDELITIES: Final[dict[str, str]] = {
    "fidelity": "F is the fidelity to the Bell state: same-basis errors of the source 2(1 - F)/3.",
    "weight": "F is the weight of the Bell state in white noise: same-basis errors of the source (1 - F)/2.",
}


def write_report(path: Path, directory: Path) -> Path:
    """Write `report.md` and its figures about the campaign in the file `path`.

    A figure that cannot be drawn costs that figure, with a line on standard error.

    Args:
        directory: made if it is not there; earlier figures of the same names are replaced.

    Returns:
        The page.

    Raises:
        InvalidArgument: `path` is not a campaign's file, or `directory` cannot be written.
    """
    with open_campaign(path) as dataset:
        by_phase = {phase: dataset.rows(phase) for phase in GROUPS}
        surrogate = dataset.surrogate
        campaign, spec, versions = dataset.campaign, dataset.spec, dataset.versions
    rows = np.concatenate(list(by_phase.values()))
    target = directory / PAGE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        drawn = _draw(directory, spec, by_phase, rows, surrogate)
        page = (
            _environment()
            .get_template("report.md.j2")
            .render(
                campaign=campaign,
                spec=spec,
                spec_yaml=yaml12.dump(spec.model_dump(mode="json")),
                versions=versions,
                drawn=drawn,
                numbers=_numbers(rows),
                outcomes=_outcome_table(rows),
                strategies=_strategy_table(rows),
                ranking=_ranking(surrogate),
                surrogate=surrogate,
                slice=_slice(surrogate),
                is_validated=_is_validated(surrogate),
                claim=statement.claim_of(spec),
                sender_error=statement.sender_error,
                partition=_said(PARTITIONS, spec.protocol.partition),
                memory=_said(MEMORY_MODELS, spec.physics.memory_model),
                fidelity=_said(FIDELITIES, spec.physics.fidelity_convention),
                decoding=_decoding(rows),
                comparison=compare(rows, spec),
                shares=_shares(spec),
                measure=_measure(),
                margin=DESCRIPTIONS["margin"],
            )
        )
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InvalidArgument(str(directory), error.strerror or "cannot be written") from None
    return target


def draw_slice(piece: CliffSlice, spec: CampaignSpec, path: Path) -> Path:
    """Draw a slice through a campaign's cliff to a picture.

    Raises:
        InvalidArgument: `path` cannot be written, or names no kind of picture; or the space holds a parameter fixed.
    """
    if not piece.has_area:
        symbols = [PARAMETERS[axis].symbol for axis in piece.axes]
        raise InvalidArgument(" ".join(symbols), "must both vary in the campaign's space for a picture")
    nothing = np.empty(0, dtype=ROW_DTYPE)
    with figures.style():
        figure = figures.cliff(
            piece, nothing, spec.space.resolve(), None, spec.surrogate.target, spec.physics.claim, _theory(piece, spec)
        )
        try:
            figure.savefig(path)
        except OSError as error:
            raise InvalidArgument(str(path), error.strerror or "cannot be written") from None
        except ValueError as error:
            raise InvalidArgument(str(path), str(error)) from None
    return path


def _theory(piece: CliffSlice, spec: CampaignSpec) -> NDArray[np.float32]:
    """Probability of a key by the closed form alone at the points of a slice, float32 [2, k, k]."""
    return expected(piece.rows.reshape(-1, piece.rows.shape[-1]), spec)[:, 2].reshape(piece.mean.shape)


def _weights(surrogate: SurrogateFindings) -> NDArray[np.floating] | None:
    """What a squared distance along each column counts, [9]: the share of the variance that is owed to it."""
    if surrogate.relevance is not None:
        return surrogate.relevance[:, 2]
    return None if surrogate.length_scales is None else surrogate.length_scales**-2.0


def _said(texts: dict[str, str], choice: str) -> str:
    return texts.get(choice, f"{choice!r}, which this release does not know.")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("caligo.cli", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["percent"] = lambda value: f"{value:.1%}"
    environment.filters["with_error"] = lambda value, error: f"{value:.1%} ± {1.96 * error:.1%}"
    environment.filters["g3"] = lambda value: f"{value:.3g}"
    environment.filters["share"] = lambda value: f"{value[0]:.1%} ± {value[1]:.1%}"
    return environment


def _draw(
    directory: Path,
    spec: CampaignSpec,
    by_phase: dict[Phase, ResultRows],
    rows: ResultRows,
    surrogate: SurrogateFindings,
) -> set[str]:
    """Draw what there is something to draw of; returns the names of the figures that could be."""
    target, claim, piece, indices = spec.surrogate.target, spec.physics.claim, surrogate.cliff, surrogate.relevance
    recipes: dict[str, Callable[[], Figure]] = {
        "outcomes": lambda: figures.outcomes(by_phase),
        "key_rate": lambda: figures.key_rate(rows, claim),
    }
    if piece is not None and piece.has_area:
        weights, theory = _weights(surrogate), _theory(piece, spec)
        recipes["cliff"] = lambda: figures.cliff(piece, rows, spec.space.resolve(), weights, target, claim, theory)
    if (profiles := surrogate.profiles) is not None:
        recipes["discrepancy"] = lambda: figures.discrepancy(profiles, claim)
    if indices is not None:
        recipes["relevance"] = lambda: figures.relevance(indices, target, claim)
    if _is_validated(surrogate):
        recipes["learning"] = lambda: figures.learning(surrogate.history, target, claim)
    drawn = set()
    with figures.style():
        for name, draw in recipes.items():
            file = directory / f"{name}.png"
            file.unlink(missing_ok=True)  # of an earlier report
            try:
                draw().savefig(file)
                drawn.add(name)
            except OSError:
                raise
            except Exception as error:
                complain(f"no figure {file}: {describe(error)}")
    return drawn


def _is_validated(surrogate: SurrogateFindings) -> bool:
    """Whether rows were held out of the last fit."""
    return len(surrogate.history) > 0 and bool(np.isfinite(surrogate.history[-1, 1]))


def _numbers(rows: ResultRows) -> dict[str, Any]:
    outcome = rows["outcome"]
    skipped = outcome >= ProtocolOutcome.SKIPPED_INFEASIBLE
    success = outcome == ProtocolOutcome.SUCCESS
    rates = metric(rows, "net_efficiency")[success]
    simulated = int(np.count_nonzero(~skipped))
    faults = int(np.isin(outcome, [int(o) for o in ProtocolOutcome if not o.is_physical]).sum())
    return {
        "rows": len(rows),
        "simulated": simulated,
        "skipped_infeasible": int(np.count_nonzero(outcome == ProtocolOutcome.SKIPPED_INFEASIBLE)),
        "skipped_predicted": int(np.count_nonzero(outcome == ProtocolOutcome.SKIPPED_PREDICTED_FAILURE)),
        "succeeded": int(np.count_nonzero(success)),
        "success_rate": np.count_nonzero(success) / (simulated - faults) if simulated > faults else None,
        "best": float(rates.max()) if len(rates) else None,
        "median": float(np.median(rates)) if len(rates) else None,
        "seconds": float(np.nansum(metric(rows, "wall_seconds"), dtype=np.float64)),
    }


def _decoding(rows: ResultRows) -> dict[str, Any]:
    """On how many decoded frames the keys rest, and how often a wrong string would pass."""
    blind = rows["inputs"][:, STRATEGY_COLUMN].round() == Strategy.BLIND
    total, decoded, reconciled = (count(rows, name) for name in ("frames_total", "frames_decoded", "reconciled"))
    key, key_bits = rows["outcome"] == ProtocolOutcome.SUCCESS, count(rows, "key_length")
    partly = key & (decoded < total)
    # The baseline has one tag a string, the blind protocol one a frame.
    tags = np.where(blind, np.maximum(1, total - count(rows, "frames_failed")), 1)
    longest = int(np.argmax(reconciled)) if len(rows) else None
    return {
        "longest": 0 if longest is None else int(reconciled[longest]),
        "collision": 0.0 if longest is None else collision_bound(tags[longest], reconciled[longest] // tags[longest]),
        "lost": int(np.count_nonzero(rows["reason"] == Reason.FRAME_LOST)),
        "baseline_keys": int(np.count_nonzero(key & ~blind)),
        "with_key": int(np.count_nonzero(key)),
        "partly": int(np.count_nonzero(partly)),
        "partly_share": float(key_bits[partly].sum() / max(1, key_bits.sum())),
        "partly_median": float(np.median(decoded[partly] / total[partly])) if partly.any() else 1.0,
    }


def _shares(spec: CampaignSpec) -> dict[str, SecureShare]:
    """The secure share of the space in closed form, by claim; none where a later release may mean another space.

    Of a campaign of release 0.1 it is what the same space gives today, with today's partition.
    """
    if spec.rules is not None:
        if spec.physics.claim not in LEGACY:
            return {}
        today = spec.protocol.model_copy(update={"partition": ProtocolSpec().partition})
        spec = spec.model_copy(update={"protocol": today})
    return {name: secure_share(spec, claim) for name, claim in CLAIMS.items()}


def _measure() -> str:
    """The design's distribution over the space, in words."""
    by_scale = {scale: ", ".join(p.symbol for p in PARAMETERS if p.scale is scale) for scale in Scale}
    return (
        f"{by_scale[Scale.LINEAR]} uniform, {by_scale[Scale.LOG]} uniform in the logarithm, "
        f"{by_scale[Scale.BETA21]} ~ Beta(2, 1), dense near its upper bound"
    )


def _outcome_table(rows: ResultRows) -> list[tuple[str, str, int]]:
    """(outcome, reason, rows) of every pair that occurs, in the order of the codes."""
    pairs, numbers = np.unique(np.stack([rows["outcome"], rows["reason"]], axis=1), axis=0, return_counts=True)
    return [
        (code_name(ProtocolOutcome, outcome), code_name(Reason, reason), int(number))
        for (outcome, reason), number in zip(pairs, numbers, strict=True)
    ]


def _strategy_table(rows: ResultRows) -> list[dict[str, Any]]:
    return [
        {"name": strategy.name.lower(), **_numbers(rows[rows["inputs"][:, STRATEGY_COLUMN].round() == strategy])}
        for strategy in Strategy
    ]


def _ranking(surrogate: SurrogateFindings) -> list[tuple[str, str, list[float]]]:
    """(symbol, title, Sobol indices with their errors), most relevant first."""
    if surrogate.relevance is None:
        return []
    titles = [*(p.title for p in PARAMETERS), "reconciliation strategy"]
    order = np.argsort(-surrogate.relevance[:, 2], kind="stable")
    return [(COLUMN_SYMBOLS[j], titles[j], surrogate.relevance[j].tolist()) for j in order]


def _slice(surrogate: SurrogateFindings) -> dict[str, Any] | None:
    """The two axes of the cliff figure, and where the slice lies in the other dimensions, physical units."""
    piece = surrogate.cliff
    if piece is None or not piece.has_area:
        return None
    fixed = [
        (p.symbol, f"{10.0 ** piece.at[j] if p.is_log else piece.at[j]:.3g}{'' if p.unit == '1' else ' ' + p.unit}")
        for j, p in enumerate(PARAMETERS)
        if j not in piece.axes
    ]
    return {"x": PARAMETERS[piece.axes[0]], "y": PARAMETERS[piece.axes[1]], "fixed": fixed}
