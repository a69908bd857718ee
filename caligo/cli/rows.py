"""Rows and points between the wire and a person: physical units, names for codes."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np
from numpy.typing import NDArray

from caligo.cli.output import console, print_json, shortest
from caligo.closed_form import expected
from caligo.contours import Contours
from caligo.dataset import row_columns
from caligo.errors import InvalidArgument
from caligo.phases import Phase
from caligo.points import NAMES, point
from caligo.requirements import Requirement
from caligo.results import ROW_DTYPE, ResultRows
from caligo.slices import CliffSlice
from caligo.space import DIMENSIONS, LOG_COLUMNS, PARAMETERS, STRATEGY_COLUMN, Space, Strategy
from caligo.spec import CampaignSpec
from caligo.thresholds import Threshold


def parse_phase(text: str) -> Phase:
    """The phase that `--phase` names.

    Raises:
        InvalidArgument: it is neither lhs nor active.
    """
    phases = {"lhs": Phase.LHS, "active": Phase.ACTIVE}
    if text not in phases:
        raise InvalidArgument("--phase", f"must be lhs or active, not {text!r}")
    return phases[text]


def print_rows(
    batches: Iterable[tuple[Phase, ResultRows]], *, json: bool, on_progress: Callable[[int, int | None], None]
) -> None:
    """A line a row: JSON objects, or tab-separated under a heading.

    Args:
        on_progress: told how many are printed, and that nobody knows of how many.
    """
    heading_due, done = not json, 0
    for phase, rows in batches:
        columns = {"phase": np.full(len(rows), phase.name.lower()), **row_columns(rows)}
        if heading_due:
            print("\t".join(columns))
            heading_due = False
        for values in zip(*columns.values(), strict=True):
            plain = [_plain(value) for value in values]
            if json:
                print_json(dict(zip(columns, plain, strict=True)))
            else:
                print("\t".join(str(value) for value in plain))
        sys.stdout.flush()
        done += len(rows)
        on_progress(done, None)


def _plain(value: Any) -> Any:
    return shortest(value) if isinstance(value, np.float32) else value.item()


def parse_assignments(assignments: Iterable[str]) -> dict[str, float | str]:
    """`symbol=value` each.

    Raises:
        InvalidArgument: a symbol is there twice.
    """
    given: dict[str, float | str] = {}
    for assignment in assignments:
        symbol, _, text = assignment.partition("=")
        if symbol in given:
            raise InvalidArgument(symbol, "is there twice")
        given[symbol] = text
    return given


def parse_numbers(assignments: Iterable[str], option: str) -> dict[str, float]:
    """`symbol=number` each.

    Raises:
        InvalidArgument: names the option; a symbol is there twice, or its value is not a number.
    """
    numbers = {}
    for symbol, text in parse_assignments(assignments).items():
        try:
            numbers[symbol] = float(text)
        except ValueError:
            raise InvalidArgument(option, f"{symbol}: must be a number, not {text!r}") from None
    return numbers


def parse_values(assignment: str, option: str) -> tuple[str, list[str]]:
    """`symbol=value,value,...`.

    Raises:
        InvalidArgument: names the option; there is no value.
    """
    symbol, _, texts = assignment.partition("=")
    values = [text.strip() for text in texts.split(",") if text.strip()]
    if not values:
        raise InvalidArgument(option, f"must be SYMBOL=VALUE,VALUE,..., not {assignment!r}")
    return symbol, values


def parse_point(assignments: Iterable[str], space: Space, extrapolate: bool = False) -> NDArray[np.float32]:
    """`symbol=value` each, physical units, as a design row, float32 [1, 9]; the rest from the middle of `space`.

    Raises:
        InvalidArgument: no such parameter, one that is there twice, not a number, outside what the parameter allows,
            or what `Space.check` refuses.
    """
    return point(parse_assignments(assignments), space, extrapolate=extrapolate)[None, :]


def read_points(path: Path, space: Space, extrapolate: bool) -> NDArray[np.float32]:
    """The points of a table as design rows, float32 [n, 9]; a parameter without a column takes the middle of `space`.

    Raises:
        InvalidArgument: as `read_assignments`, or a value is one that `parse_point` does not take.
    """
    rows = [np.empty((0, DIMENSIONS), dtype=np.float32)]
    for line, values in read_assignments(path):
        with naming(line):
            rows.append(point(values, space, extrapolate=extrapolate)[None, :])
    return np.concatenate(rows)


@contextmanager
def naming(line: str) -> Iterator[None]:
    """What is refused inside is refused by the name of its line, where it has one."""
    try:
        yield
    except InvalidArgument as error:
        if not line:
            raise
        raise InvalidArgument(line, str(error)) from None


def read_assignments(path: Path) -> list[tuple[str, dict[str, float | str]]]:
    """The points of a table by symbol, and what each line is called.

    A heading and a line a point, separated by commas or tabs, physical units. The columns are called after parameters
    or `strategy`; the others of `caligo results` are passed over.

    Args:
        path: `-` for standard input.

    Raises:
        InvalidArgument: the file cannot be read, or a column is unknown, there twice or lacks values.
    """
    try:
        with nullcontext(sys.stdin) if str(path) == "-" else path.open(encoding="utf-8", newline="") as file:
            return list(_read_assignments(file, str(path)))
    except OSError as error:
        raise InvalidArgument(str(path), error.strerror or "cannot be read") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidArgument(str(path), f"is no table: {error}") from None


def _read_assignments(file: TextIO, name: str) -> Iterator[tuple[str, dict[str, float | str]]]:
    heading = file.readline()
    lines = csv.DictReader(itertools.chain([heading], file), delimiter="\t" if "\t" in heading else ",")
    there = [column.strip() for column in lines.fieldnames or ()]
    lines.fieldnames = there
    for column in there:
        if column not in (*NAMES, *_PASSED_OVER):
            raise InvalidArgument(f"{name}: {column}", f"no such column; there are {', '.join(NAMES)}")
        if there.count(column) > 1:
            raise InvalidArgument(f"{name}: {column}", "is there twice")
    known = [column for column in there if column in NAMES]
    if not known:
        raise InvalidArgument(name, f"must have a heading with some of {', '.join(NAMES)}")
    for line in lines:
        label = f"{name}: line {lines.line_num}"
        if None in line:
            raise InvalidArgument(label, "the line: has more values than the heading")
        yield label, {column: line[column] or "" for column in known}


_PASSED_OVER: Final = ("phase", *row_columns(np.empty(0, dtype=ROW_DTYPE)))
"""Columns of what `caligo results` prints."""
_ANSWER: Final = (
    "mean", "standard_deviation", "probability_of_key",
    "closed_form_margin", "closed_form_standard_deviation", "closed_form_probability_of_key",
)  # fmt: skip
"""Columns of `CampaignClient.predict`."""


def print_prediction(
    rows: NDArray[np.float32], predicted: NDArray[np.float32], spec: CampaignSpec, *, json: bool
) -> None:
    """What surrogate and closed form say of one point, float32 [1, 9] and [1, 6]."""
    place, answer = point_to_plain(rows), _answer_to_plain(rows[0], predicted[0], spec.space.resolve())
    if json:
        print_json({"point": place, **answer})
        return
    console.print(" ".join(f"{key}={value}" for key, value in place.items()), soft_wrap=True)
    console.print(f"surrogate: {spec.surrogate.target} {_said(*predicted[0, :3])}")
    console.print(f"closed form alone: {f'margin {_said(*predicted[0, 3:])}' if spec.rules is None else 'n/a'}")
    console.print(f"of one run, ± its standard deviation, under the claim {spec.physics.claim}")
    if answer["outside"]:
        console.print(f"a guess: outside the campaign's space in {', '.join(answer['outside'])}")


def _said(mean: float, deviation: float, probability: float) -> str:
    return f"{mean:.4g} ± {deviation:.2g}, key with probability {probability:.1%}"


def print_predictions(
    rows: NDArray[np.float32], predicted: NDArray[np.float32], spec: CampaignSpec, *, json: bool
) -> None:
    """A line a point, float32 [n, 9] and [n, 6]: JSON objects, or tab-separated under a heading."""
    space = spec.space.resolve()
    lines = (
        {**point_to_plain(row[None, :]), **_answer_to_plain(row, answer, space)}
        for row, answer in zip(rows, predicted, strict=True)
    )
    print_lines(lines if json else ({**line, "outside": ",".join(line["outside"]) or "-"} for line in lines), json=json)


def print_thresholds(
    found: Sequence[Threshold], at: Mapping[str, float | str], spec: CampaignSpec, *, json: bool
) -> None:
    """The answers for one device: a JSON object, or a line a strategy and level."""
    if json:
        print_json({"at": dict(at), "claim": spec.physics.claim, "thresholds": [_threshold_to_plain(t) for t in found]})
        return
    place = " ".join(f"{symbol}={value}" for symbol, value in at.items())
    console.print(f"{place or 'the middle of the space'}, under the claim {spec.physics.claim}", soft_wrap=True)
    for threshold in found:
        console.print(_threshold_said(threshold), soft_wrap=True)


def _threshold_to_plain(threshold: Threshold) -> dict[str, Any]:
    plain = dataclasses.asdict(threshold)
    return {**plain, "strategy": threshold.strategy.name.lower()}


def _threshold_said(t: Threshold) -> str:
    what = f"{t.strategy.name.lower()}: P(key) {t.level:.0%}"
    by_theory = ", ".join(f"{value:.4g}" for value in t.closed_form) or "nowhere crossed"
    if not t.crossings:
        side = "above" if t.is_above else "below"
        return f"{what} is not crossed: {side} over the whole range of {t.parameter} (closed form: {by_theory})"
    places = (
        f"{t.parameter} = {c.value:.4g} ({_end(c.low)} to {_end(c.high)}), key {'above' if c.rises else 'below'}"
        for c in t.crossings
    )
    return f"{what} at {'; '.join(places)} (closed form: {by_theory})"


def _end(value: float) -> str:
    """Of a band; it may leave the space."""
    return "outside" if math.isnan(value) else f"{value:.4g}"


def print_requirements(
    found: Sequence[Requirement], at: Mapping[str, float | str], level: float, spec: CampaignSpec, *, json: bool
) -> None:
    """The answers for one baseline: a JSON object, or some lines a strategy."""
    if json:
        plain = [{**dataclasses.asdict(r), "strategy": r.strategy.name.lower()} for r in found]
        print_json({"baseline": dict(at), "claim": spec.physics.claim, "confidence": level, "requirements": plain})
        return
    place = " ".join(f"{symbol}={value}" for symbol, value in at.items())
    console.print(f"{place or 'the middle of the space'}, under the claim {spec.physics.claim}", soft_wrap=True)
    for r in found:
        name = f"{r.strategy.name.lower()}: P(key) {level:.0%}"
        theory = "none is enough" if math.isinf(r.closed_form_cost) else f"cost {r.closed_form_cost:.4g}"
        if not r.factors:
            console.print(f"{name}: no improvement inside the campaign's space is enough (closed form: {theory})")
            continue
        band = f"{_end(r.low)} to {_end(r.high)}"
        console.print(f"{name} at cost {r.cost:.4g} ({band}; closed form: {theory})", soft_wrap=True)
        for symbol, factor in r.factors.items():
            to = f"to {r.values[symbol]:.4g}" if factor > 1.0 else "as it is"
            console.print(f"  {symbol:<7} k = {factor:.4g}, {to}", soft_wrap=True)


def contours_as_csv(found: Contours) -> str:
    """A line a point: strategy, whose line, its number, and the place in physical units."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["strategy", "kind", "line", found.x, found.y])
    for number, line in enumerate(found.lines):
        for a, b in zip(line.x.tolist(), line.y.tolist(), strict=True):
            writer.writerow([line.strategy.name.lower(), line.kind, number, f"{a:.9g}", f"{b:.9g}"])
    return text.getvalue()


def print_slice(piece: CliffSlice, spec: CampaignSpec, *, json: bool) -> None:
    """A line a point of the grid: its place, mean and standard deviation of the target, and what the closed form alone
    says, by strategy."""
    rows = piece.rows[np.isfinite(piece.mean)]
    moments = np.stack([piece.mean, piece.deviation], axis=-1)[np.isfinite(piece.mean)]
    said = np.concatenate([moments, expected(rows, spec)], axis=1)
    names = (*_ANSWER[:2], *_ANSWER[3:])
    print_lines(
        (
            {**point_to_plain(row[None, :]), **dict(zip(names, map(shortest, answer), strict=True))}
            for row, answer in zip(rows, said, strict=True)
        ),
        json=json,
    )


def print_lines(lines: Iterable[dict[str, Any]], *, json: bool) -> None:
    """JSON objects, or tab-separated under a heading."""
    for number, line in enumerate(lines):
        if json:
            print_json(line)
        else:
            if not number:
                print("\t".join(line))
            print("\t".join("n/a" if value != value else str(value) for value in line.values()))  # NaN
    sys.stdout.flush()


def _answer_to_plain(row: NDArray[np.float32], answer: NDArray[np.float32], space: Space) -> dict[str, Any]:
    """What is said of one point, float32 [9] and [6], by name, and where the point leaves the space."""
    outside = [NAMES[j] for j in np.flatnonzero(space.outside(row[None, :])[0])]
    return {**dict(zip(_ANSWER, map(shortest, answer), strict=True)), "outside": outside}


def point_to_plain(row: NDArray[np.float32]) -> dict[str, Any]:
    """A design row, float32 [1, 9], in physical units by symbol."""
    values = row[0].astype(np.float64)
    values[list(LOG_COLUMNS)] = 10.0 ** values[list(LOG_COLUMNS)]
    plain: dict[str, Any] = {p.symbol: float(f"{value:.6g}") for p, value in zip(PARAMETERS, values, strict=False)}
    return {**plain, "strategy": Strategy(round(values[STRATEGY_COLUMN])).name.lower()}
