"""The report's figures: matplotlib without a display, colours that colour-blind readers can tell apart.

Every function draws one figure and returns it; none of them touches pyplot's global state. Drawing and saving belong
inside `style`.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

# ruff: noqa: E402 - with the name of a backend that is not there, of a notebook's say, matplotlib does not even load, and
# while it loads it remarks on a user's settings and home, which are of no concern here.
os.environ["MPLBACKEND"] = "agg"
logging.getLogger("matplotlib").setLevel(logging.ERROR)

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from caligo.dataset import HISTORY_COLUMNS
from caligo.phases import Phase
from caligo.physics.vectorized import binary_entropy
from caligo.results import ProtocolOutcome, Reason, ResultRows, metric
from caligo.slices import CliffSlice
from caligo.space import COLUMN_SYMBOLS, PARAMETERS, STRATEGY_COLUMN, Space, Strategy

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, VERMILION, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#8A8A8A"

_STYLE: Final[Mapping[str, Any]] = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 10,
}
MATH: Final[Mapping[str, str]] = {
    "r": "$r$",
    "nu": r"$\nu$",
    "dt_ns": r"$\Delta t$",
    "F": "$F$",
    "eta": r"$\eta$",
    "e_det": r"$e_\mathrm{det}$",
    "P_dark": r"$P_\mathrm{dark}$",
    "N": "$N$",
    "strategy": "strategy",
}
_STRATEGY_NAMES: Final = {Strategy.BASELINE: "rate-adaptive baseline", Strategy.BLIND: "blind reconciliation"}
_COLUMN_TITLES: Final = (*(p.title for p in PARAMETERS), "reconciliation strategy")


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The look of the figures, over matplotlib's defaults and whatever a user has set, TeX for texts say."""
    settings: dict[Any, Any] = {**matplotlib.rcParamsDefault, **_STYLE}
    settings.pop("backend")
    with matplotlib.rc_context(settings):
        yield


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, **options)


def cliff(
    piece: CliffSlice,
    rows: ResultRows,
    space: Space,
    weights: NDArray[np.floating] | None,
    target: str,
    claim: str,
    theory: NDArray[np.float32] | None = None,
) -> Figure:
    """The target predicted under a claim in the two most relevant dimensions, a panel a strategy.

    Samples are drawn at their place in these two dimensions, the fainter the farther they are from the slice in the
    others.

    Args:
        weights: of squared distances, a column of the inputs each, [9]; all the same by default.
        theory: probability of a key by the closed form alone at the points of the slice, float32 [2, k, k]; NaN where
            there is none.
    """
    explored = [strategy for strategy in Strategy if np.isfinite(piece.mean[strategy]).all()]
    figure, panels = _figure(10.5, 5.4, 1, len(explored), sharex=True, sharey=True, squeeze=False)
    panels = panels[0]
    limit = float(np.nanquantile(np.abs(piece.mean), 0.98)) or 1.0
    norm = TwoSlopeNorm(0.0, -limit, limit)
    levels = np.linspace(-limit, limit, 21)
    x, y = (_physical(axis, values) for axis, values in zip(piece.axes, (piece.x, piece.y), strict=True))
    closeness = _closeness(piece, rows, space, weights)
    for strategy, panel in zip(explored, panels, strict=True):
        mean, deviation = piece.mean[strategy], piece.deviation[strategy]
        filled = panel.contourf(
            x, y, np.clip(mean, -limit, limit), levels=levels, cmap="PuOr", norm=norm, extend="both"
        )
        if mean.min() < 0.0 < mean.max():
            panel.contour(x, y, mean, levels=[0.0], colors="black", linewidths=2.8)
        for bound in (mean - 1.96 * deviation, mean + 1.96 * deviation):
            if bound.min() < 0.0 < bound.max():
                panel.contour(x, y, bound, levels=[0.0], colors="black", linewidths=1.0, linestyles="dashed")
        if theory is not None and theory[strategy].min() < 0.5 < theory[strategy].max():
            panel.contour(x, y, theory[strategy], levels=[0.5], colors=VERMILION, linewidths=1.8, linestyles="dashdot")
        own = rows["inputs"][:, STRATEGY_COLUMN].round() == strategy
        if own.any():
            _samples(panel, piece.axes, rows[own], closeness[own])
        panel.set_title(_STRATEGY_NAMES[strategy])
        panel.set_xlabel(_axis_label(piece.axes[0]))
        _scale(panel, piece.axes, x, y)
    panels[0].set_ylabel(_axis_label(piece.axes[1]))
    unit = "key bits per reconciled bit" if target == "margin" else "key bits per pair"
    bar = figure.colorbar(filled, ax=panels, pad=0.015, fraction=0.05)
    bar.set_label(f"predicted {target} ({unit})\nunder the claim {claim}")
    # Those beyond the bar would be written over one another at its ends.
    bar.set_ticks([tick for tick in MaxNLocator(7).tick_values(-limit, limit) if abs(tick) <= limit])
    handles = [
        Line2D([], [], color="black", linewidth=2.8, label="cliff (zero contour)"),
        Line2D([], [], color="black", linewidth=1.0, linestyle="dashed", label="its 95 % band"),
    ]
    if theory is not None and np.isfinite(theory).any():
        label = "closed form: a key as likely as none"
        handles.append(Line2D([], [], color=VERMILION, linewidth=1.8, linestyle="dashdot", label=label))
    samples = [
        Line2D([], [], linestyle="", marker="o", color="white", markeredgecolor="black", label="key"),
        Line2D([], [], linestyle="", marker="X", color="black", markersize=7, label="no key"),
        Line2D([], [], linestyle="", marker=".", color="black", label="skipped"),
        Line2D([], [], linestyle="", marker="o", color="black", alpha=0.2, label="faint: far from this slice"),
    ]
    handles += samples if len(rows) else []
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _closeness(
    piece: CliffSlice, rows: ResultRows, space: Space, weights: NDArray[np.floating] | None
) -> NDArray[np.float64]:
    """How near each row is to the slice among all rows, from 1 (nearest) down to 0, [n].

    Near in the other continuous columns, those that matter most above all. By rank, so that there is contrast whatever
    the weights are.
    """
    others = [j for j in range(len(PARAMETERS)) if j not in piece.axes]
    weight = np.ones(len(others)) if weights is None else np.asarray(weights, dtype=float)[others]
    distance = (space.to_unit(rows["inputs"]) - space.to_unit(piece.at[None, :]))[:, others]
    rank = np.argsort(np.argsort((weight * distance**2).sum(axis=1)))
    return 1.0 - rank / max(len(rows) - 1, 1)


def _samples(panel: Axes, axes: tuple[int, int], rows: ResultRows, closeness: NDArray[np.float64]) -> None:
    outcome = rows["outcome"]
    success = outcome == ProtocolOutcome.SUCCESS
    skipped = outcome >= ProtocolOutcome.SKIPPED_INFEASIBLE
    x, y = (_physical(axis, rows["inputs"][:, axis]) for axis in axes)
    alpha = 0.08 + 0.92 * closeness**2
    looks: tuple[tuple[NDArray[np.bool_], dict[str, Any]], ...] = (
        (skipped, {"s": 7, "c": "black", "linewidths": 0}),
        (~(success | skipped), {"s": 38, "c": "black", "marker": "X", "edgecolors": "white", "linewidths": 0.5}),
        (success, {"s": 32, "c": "white", "edgecolors": "black", "linewidths": 1.0}),
    )
    for layer, (chosen, look) in enumerate(looks, 3):
        if not chosen.any():
            continue
        opacity: Any = alpha[chosen]
        panel.scatter(x[chosen], y[chosen], alpha=opacity, clip_on=False, zorder=layer, **look)


def _physical(axis: int, values: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = np.asarray(values, dtype=np.float64)
    return 10.0**wide if PARAMETERS[axis].is_log else wide


def _axis_label(axis: int) -> str:
    p = PARAMETERS[axis]
    unit = f" ({p.unit})" if p.unit != "1" else ""
    return f"{p.title} {MATH[p.symbol]}{unit}"


def _scale(panel: Axes, axes: tuple[int, int], x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    if PARAMETERS[axes[0]].is_log:
        panel.set_xscale("log")
    if PARAMETERS[axes[1]].is_log:
        panel.set_yscale("log")
    panel.set_xlim(x[0], x[-1])
    panel.set_ylim(y[0], y[-1])


def outcomes(by_phase: Mapping[Phase, ResultRows]) -> Figure:
    """How many rows ended how, stacked by phase."""
    figure, panel = _figure(8.5, 3.9)
    kinds = list(ProtocolOutcome)
    names = [kind.name.lower().replace("_", " ") for kind in kinds]
    left = np.zeros(len(kinds))
    labels = {Phase.LHS: "Latin hypercube", Phase.ACTIVE: "active learning"}
    for (phase, rows), colour in zip(by_phase.items(), (SKY, ORANGE), strict=True):
        counts = np.array([np.count_nonzero(rows["outcome"] == kind) for kind in kinds])
        panel.barh(names, counts, left=left, color=colour, label=labels[phase], height=0.72)
        left += counts
    for position, total in enumerate(left):
        panel.text(total + 0.01 * max(left.max(), 1), position, f"{int(total):,}", va="center")
    panel.invert_yaxis()
    panel.set_xlim(0, 1.09 * max(left.max(), 1))
    panel.set_xlabel("rows")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.grid(axis="x", alpha=0.25)
    panel.tick_params(axis="y", length=0)
    panel.legend(loc="lower right")
    return figure


def key_rate(rows: ResultRows, claim: str) -> Figure:
    """Key under a claim against QBER, with the limits at perfect reconciliation and infinite length."""
    figure, (margins, rates) = _figure(11.5, 4.9, 1, 2)
    qber, entropy = metric(rows, "qber"), metric(rows, "min_entropy_rate")
    margin, efficiency = metric(rows, "margin"), metric(rows, "net_efficiency")
    highest = float(np.nanmax(qber, initial=0.11))
    q = np.linspace(1e-5, min(0.25, 1.05 * highest), 4000)
    surplus = 0.5 - binary_entropy(q)

    lowest = max(-1.0, float(np.nanquantile(margin, 0.02)) if np.isfinite(margin).any() else -0.5)
    blind = rows["inputs"][:, STRATEGY_COLUMN].round() == Strategy.BLIND
    lost = rows["reason"] == Reason.FRAME_LOST
    points = None
    for own, marker in ((~blind, "o"), (blind, "^")):
        points = margins.scatter(
            qber[own], margin[own], c=entropy[own], cmap="viridis", vmin=0, vmax=0.5, s=24, marker=marker,
            edgecolors="white", linewidths=0.4, zorder=3,
        )  # fmt: skip
    assert points is not None
    margins.scatter(qber[lost], margin[lost], c=VERMILION, marker="x", s=60, linewidths=1.8, zorder=4)
    for h_min in (0.1, 0.2, 0.3, 0.4, 0.5):
        margins.plot(q, h_min - binary_entropy(q), color=points.cmap(h_min / 0.5), linewidth=1.4, zorder=2)
    margins.axhline(0, color="black", linewidth=1.6, zorder=1)
    margins.annotate("cliff", (q[-1], 0), xytext=(0, 3), textcoords="offset points", ha="right", va="bottom")
    margins.set_ylim(min(lowest - 0.05, -0.1), 0.53)
    margins.set_xlim(0, q[-1])
    margins.set_ylabel("margin (key bits per reconciled bit)")
    margins.set_title(r"Lines: $h_\mathrm{min} - h(Q)$ at the colour's $h_\mathrm{min}$")
    bar = figure.colorbar(points, ax=margins, pad=0.02)
    bar.set_label(r"min-entropy rate $h_\mathrm{min}$ (bits)")
    handles = [
        Line2D([], [], linestyle="", marker=m, color=GREY, label=name)
        for m, name in (("o", "baseline"), ("^", "blind"))
    ]
    if lost.any():
        handles.append(Line2D([], [], linestyle="", marker="x", color=VERMILION, label="frame lost: no key"))
    margins.legend(handles=handles, loc="upper right")

    success = efficiency > 0
    for own, marker, colour, name in ((~blind, "o", BLUE, "baseline"), (blind, "^", VERMILION, "blind")):
        chosen = success & own
        rates.scatter(qber[chosen], efficiency[chosen], s=24, marker=marker, c=colour, alpha=0.8, label=name, zorder=3)
    inside = surplus > 1e-5
    rates.plot(q[inside], 0.5 * surplus[inside], color="black", linewidth=2, label=r"$(1/2 - h(Q))/2$")
    rates.set_yscale("log")
    rates.set_xlim(0, q[-1])
    smallest = float(efficiency[success].min()) if success.any() else 1e-3
    rates.set_ylim(0.5 * min(smallest, 1e-2), 0.5)
    rates.set_ylabel("key rate (key bits of one string per pair)")
    rates.set_title("Rows with a key, and the limit of perfect codes")
    rates.grid(alpha=0.25)
    rates.legend(loc="upper right")
    figure.suptitle(f"Claim: {claim}")
    for panel in (margins, rates):
        panel.set_xlabel("QBER")
        panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def discrepancy(profiles: NDArray[np.float32], claim: str) -> Figure:
    """What the simulator's margin differs by from the closed form's along each parameter, with its 95 % band.

    Args:
        profiles: float32 [9, 17, 3], `caligo.discrepancy.PROFILE_COLUMNS`.
    """
    figure, panels = _figure(10.5, 7.6, 3, 3, sharey=True)
    for j, panel in enumerate(panels.flat):
        coordinate, mean, half_width = profiles[j][np.isfinite(profiles[j, :, 1])].T
        panel.axhline(0.0, color="black", linewidth=1.0)
        if j == STRATEGY_COLUMN:
            panel.errorbar(coordinate, mean, half_width, color=BLUE, linestyle="", marker="o", capsize=4)
            panel.set_xticks([int(s) for s in Strategy], [s.name.lower() for s in Strategy])
            panel.set_xlim(-0.5, 1.5)
            panel.set_xlabel(_COLUMN_TITLES[j])
        else:
            x = _physical(j, coordinate)
            panel.fill_between(x, mean - half_width, mean + half_width, color=SKY, alpha=0.45, linewidth=0)
            panel.plot(x, mean, color=BLUE, linewidth=1.8)
            panel.set_xlabel(_axis_label(j))
            if PARAMETERS[j].is_log and len(x):
                panel.set_xscale("log")
        if not len(coordinate):
            panel.text(0.5, 0.5, "held fixed, or\nnothing in question", ha="center", transform=panel.transAxes)
            panel.set_xticks([])
        panel.grid(alpha=0.25)
    figure.supylabel(f"simulated margin less that of the closed form\n(key bits per reconciled bit, claim {claim})")
    handles = [
        Line2D([], [], color=BLUE, linewidth=1.8, label="average over the other parameters"),
        Line2D([], [], color=SKY, alpha=0.45, linewidth=8, label="its 95 % band"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def relevance(indices: NDArray[np.float32], target: str, claim: str) -> Figure:
    """The columns by their Sobol indices, most relevant first.

    Args:
        indices: float32 [9, 4], `caligo.discrepancy.RELEVANCE_COLUMNS`.
    """
    figure, panel = _figure(8.5, 4.4)
    order = np.argsort(-indices[:, 2], kind="stable")
    first, first_error, total, total_error = indices[order].T
    positions = np.arange(len(order))
    for offset, value, error, colour, label in (
        (-0.19, total, total_error, SKY, "with all that it does together with others (total)"),
        (0.19, first, first_error, BLUE, "by itself (first order)"),
    ):
        panel.barh(positions + offset, value, 0.36, xerr=1.96 * error, color=colour, ecolor="black", label=label)
    panel.set_yticks(
        positions,
        [_COLUMN_TITLES[j] + (f"  {MATH[COLUMN_SYMBOLS[j]]}" if j != STRATEGY_COLUMN else "") for j in order],
    )
    panel.invert_yaxis()
    panel.tick_params(axis="y", length=0)
    panel.set_xlim(left=0)
    panel.set_xlabel(f"share of the variance of the {target} over the space, claim {claim}")
    panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.grid(axis="x", alpha=0.25)
    panel.legend(loc="lower right")
    return figure


def learning(history: NDArray[np.float32], target: str, claim: str) -> Figure:
    """The surrogate's error on held-out rows, and its secure share of the space under a claim, fit after fit."""
    figure, panels = _figure(9.5, 5.6, 2, 2, sharex=True)
    column = {name: history[:, j] for j, name in enumerate(HISTORY_COLUMNS)}
    contents = (
        ("rmse", f"root mean square error of the {target}", None),
        ("brier", "Brier score of “key > 0”", None),
        ("coverage90", "share inside the 90 % interval", 0.9),
        ("secure_fraction", f"secure share of the space under {claim}", None),
    )
    for panel, (name, label, wanted) in zip(panels.flat, contents, strict=True):
        panel.plot(column["rows"], column[name], color=BLUE, marker="o", markersize=4, linewidth=1.6)
        alone = column.get(f"closed_form_{name}")
        if alone is not None and np.isfinite(alone).any():
            panel.plot(column["rows"], alone, color=VERMILION, linestyle="dotted", label="closed form alone")
            panel.legend(frameon=False, fontsize=9)
        panel.set_title(label, fontsize=11)
        panel.grid(alpha=0.25)
        if wanted is not None:
            panel.axhline(wanted, color=VERMILION, linestyle="dashed", linewidth=1.2)
            panel.set_ylim(0, 1.03)
        elif name == "secure_fraction":
            panel.set_ylim(0, 1)
        else:
            panel.set_ylim(bottom=0)
        if name in ("coverage90", "secure_fraction"):
            panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    for panel in panels[1]:
        panel.set_xlabel("rows learned from")
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure
