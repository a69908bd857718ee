"""`caligo report`: a Markdown page with figures from a campaign's file alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from caligo.cli import figures
from caligo.dataset import GROUPS, CampaignDataset, SurrogateFindings, open_campaign
from caligo.errors import InvalidArgument
from caligo.results import ROW_DTYPE, ProtocolOutcome, Reason, ResultRows, metric
from caligo.slices import CliffSlice
from caligo.space import COLUMNS, PARAMETERS, STRATEGY_COLUMN, Strategy
from caligo.spec import CampaignSpec

PAGE: Final = "report.md"


@dataclasses.dataclass(frozen=True)
class Assumption:
    """What a min-entropy bound takes for granted."""

    source: str
    partition: str
    attacks: str


BOUNDS: Final[dict[str, Assumption]] = {
    "lupo2023": Assumption(
        source="Lupo et al., arXiv:2302.04236, Eqs. 37-38 and 50-51",
        partition=(
            "The bound takes the partition into the two strings to be out of Bob's control. In the protocol as "
            "simulated Bob names the two index sets: against a Bob who uses that freedom these rates need interactive "
            "hashing on top. Without it, `erven2014` is the bound to quote."
        ),
        attacks=(
            "Bob stores a fraction ν of the qubits as they come, each kept with probability r after the wait, and "
            "may measure the rest in any way. Attacks that encode several qubits into the memory are **not** covered."
        ),
    ),
    "kww2012": Assumption(
        source="König, Wehner, Wullschleger, IEEE Trans. Inf. Theory 58, 1962 (2012)",
        partition=(
            "The bound takes the partition into the two strings to be out of Bob's control, or fixed by interactive "
            "hashing. In the protocol as simulated Bob names the two index sets: without interactive hashing on top, "
            "`erven2014` is the bound to quote."
        ),
        attacks="Any attack, encoding before storage included, by the strong converse of the storage channel.",
    ),
    "erven2014": Assumption(
        source="Erven et al., Nat. Commun. 5, 3418 (2014), Eq. 8",
        partition="Bob makes the partition; both syndromes and the string that he learns are charged to the entropy.",
        attacks="Any attack, encoding before storage included. The bound of the published experiment.",
    ),
}
MEMORY_MODELS: Final = {
    "markov": "r is the retention over one second and decays on: r_eff = r^(Δt / 1 s).",
    "fixed": "r is the retention after the wait, whatever the wait: Δt changes nothing.",
}
FIDELITIES: Final = {
    "fidelity": "F is the fidelity to the Bell state: same-basis errors of the source 2(1 - F)/3.",
    "weight": "F is the weight of the Bell state in white noise: same-basis errors of the source (1 - F)/2.",
}


def write_report(path: Path, directory: Path) -> Path:
    """Write `report.md` and its figures about the campaign in the file `path`.

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
        rows = np.concatenate(list(by_phase.values()))
        page = (
            _environment()
            .get_template("report.md.j2")
            .render(
                campaign=dataset.campaign,
                spec=dataset.spec,
                spec_yaml=yaml.safe_dump(dataset.spec.model_dump(mode="json"), sort_keys=False),
                versions=dataset.versions,
                numbers=_numbers(rows),
                outcomes=_outcome_table(rows),
                strategies=_strategy_table(rows),
                ranking=_ranking(surrogate),
                surrogate=surrogate,
                slice=_slice(surrogate),
                is_validated=_is_validated(surrogate),
                bound=BOUNDS[dataset.spec.physics.bound],
                memory=MEMORY_MODELS[dataset.spec.physics.memory_model],
                fidelity=FIDELITIES[dataset.spec.physics.fidelity_convention],
            )
        )
        drawn = _draw(dataset, by_phase, rows, surrogate)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(figures.STYLE):
            for name, figure in drawn.items():
                figure.savefig(directory / f"{name}.png")
        target = directory / PAGE
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InvalidArgument(str(directory), error.strerror or "cannot be written") from None
    return target


def draw_slice(piece: CliffSlice, spec: CampaignSpec, path: Path) -> Path:
    """Draw a slice through a campaign's cliff to a picture.

    Raises:
        InvalidArgument: `path` cannot be written, or names no kind of picture.
    """
    nothing = np.empty(0, dtype=ROW_DTYPE)
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.cliff(piece, nothing, spec.space.resolve(), None, spec.surrogate.target)
        try:
            figure.savefig(path)
        except OSError as error:
            raise InvalidArgument(str(path), error.strerror or "cannot be written") from None
        except ValueError as error:
            raise InvalidArgument(str(path), str(error)) from None
    return path


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
    environment.filters["g3"] = lambda value: f"{value:.3g}"
    return environment


def _draw(
    dataset: CampaignDataset, by_phase: dict[Any, ResultRows], rows: ResultRows, surrogate: SurrogateFindings
) -> dict[str, Any]:
    with matplotlib.rc_context(figures.STYLE):
        drawn = {"outcomes": figures.outcomes(by_phase), "key_rate": figures.key_rate(rows)}
        target = dataset.spec.surrogate.target
        if surrogate.cliff is not None:
            space = dataset.spec.space.resolve()
            drawn["cliff"] = figures.cliff(surrogate.cliff, rows, space, surrogate.length_scales, target)
        if surrogate.length_scales is not None:
            drawn["relevance"] = figures.relevance(surrogate.length_scales)
        if _is_validated(surrogate):
            drawn["learning"] = figures.learning(surrogate.history, target)
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


def _outcome_table(rows: ResultRows) -> list[tuple[str, str, int]]:
    """(outcome, reason, rows) of every pair that occurs, in the order of the codes."""
    pairs, counts = np.unique(np.stack([rows["outcome"], rows["reason"]], axis=1), axis=0, return_counts=True)
    return [
        (ProtocolOutcome(outcome).name.lower(), Reason(reason).name.lower(), int(count))
        for (outcome, reason), count in zip(pairs, counts, strict=True)
    ]


def _strategy_table(rows: ResultRows) -> list[dict[str, Any]]:
    return [
        {"name": strategy.name.lower(), **_numbers(rows[rows["inputs"][:, STRATEGY_COLUMN].round() == strategy])}
        for strategy in Strategy
    ]


def _ranking(surrogate: SurrogateFindings) -> list[tuple[str, str, float]]:
    """(symbol, title, length scale), most relevant first."""
    if surrogate.length_scales is None:
        return []
    names = [*((p.symbol, p.title) for p in PARAMETERS), (COLUMNS[STRATEGY_COLUMN], "reconciliation strategy")]
    order = np.argsort(surrogate.length_scales)
    return [(*names[j], float(surrogate.length_scales[j])) for j in order]


def _slice(surrogate: SurrogateFindings) -> dict[str, Any] | None:
    """The two axes of the cliff figure, and where the slice lies in the other dimensions, physical units."""
    if surrogate.cliff is None:
        return None
    piece = surrogate.cliff
    fixed = [
        (p.symbol, f"{10.0 ** piece.at[j] if p.is_log else piece.at[j]:.3g}{'' if p.unit == '1' else ' ' + p.unit}")
        for j, p in enumerate(PARAMETERS)
        if j not in piece.axes
    ]
    return {"x": PARAMETERS[piece.axes[0]], "y": PARAMETERS[piece.axes[1]], "fixed": fixed}
