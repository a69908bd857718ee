"""What a person sees while a campaign runs: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
)
from rich.text import Text

from caligo.cli.output import counts_line, phase_name
from caligo.client import Changed, Event, Noted, Progressed
from caligo.v1 import campaign_pb2, types_pb2

_LINE_SECONDS: Final = 5.0
"""Plain lines come no faster than this."""


class Display(Protocol):
    """Shows events as they come. A context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def say(self, line: str) -> None:
        """A line that stays."""

    def show(self, event: Event) -> None:
        """An event of a campaign."""


def display(console: Console) -> Display:
    """A live panel if `console` is a terminal, lines if not."""
    return LiveDisplay(console) if console.is_terminal else LineDisplay(console)


class LineDisplay:
    """A line at each change, and one every few seconds while rows are done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown_at = 0.0
        self._phase = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    def show(self, event: Event) -> None:
        match event:
            case Changed() | Noted():
                self.say(_line(event))
            case Progressed(progress=progress):
                due = time.monotonic() - self._shown_at > _LINE_SECONDS
                if due or progress.phase != self._phase or progress.done == progress.total:
                    self._shown_at, self._phase = time.monotonic(), progress.phase
                    self.say(_progress_line(progress))


class LiveDisplay:
    """A bar for the phase, and the counts and the cliff estimate below it."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[pace]}"),
            console=console,
        )
        self._task = self._bar.add_task("starting", total=None, pace="")
        self._counts = Text()
        self._live = Live(Group(self._bar, self._counts), console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        self._live.console.print(line)

    def show(self, event: Event) -> None:
        match event:
            case Changed() | Noted():
                self.say(_line(event))
            case Progressed(progress=progress):
                self._bar.update(
                    self._task,
                    description=phase_name(progress.phase),
                    completed=progress.done,
                    total=progress.total or None,
                    pace=_pace(progress),
                )
                self._counts.plain = f"{counts_line(progress)}{_cliff(progress)}"


@contextlib.contextmanager
def counting(
    console: Console, what: str, *columns: ProgressColumn, shown: bool = True
) -> Iterator[Callable[[int, int | None], None]]:
    """A bar if `console` is a terminal, nothing if not; yields what is told how much is done, and of how much.

    Args:
        columns: what stands beside the bar.
        shown: false where something else is written to that terminal.
    """
    bar = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        *columns,
        console=console,
        transient=True,
        redirect_stdout=False,  # what a command prints is not the bar's business
        disable=not (shown and console.is_terminal),
    )
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _progress_line(progress: campaign_pb2.Progress) -> str:
    pace = _pace(progress)
    return (
        f"{phase_name(progress.phase)}: {progress.done:,} of {progress.total:,}"
        f"{', ' + pace if pace else ''}; {counts_line(progress)}{_cliff(progress)}"
    )


def _pace(progress: campaign_pb2.Progress) -> str:
    rate = progress.rows_per_second
    if rate <= 0 or progress.phase == types_pb2.PHASE_SURROGATE:  # there `done` counts steps, not rows
        return ""
    left = max(progress.total - progress.done, 0) / rate
    return f"{rate:.3g} rows/s, {_duration(left)} left"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _cliff(progress: campaign_pb2.Progress) -> str:
    return f"; secure: {progress.secure_fraction:.1%} of the space" if progress.HasField("secure_fraction") else ""


def _line(event: Changed | Noted) -> str:
    return event.text if isinstance(event, Noted) else f"{event.campaign.name}: {event.campaign.state.name.lower()}"
