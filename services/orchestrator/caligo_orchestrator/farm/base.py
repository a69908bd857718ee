"""What the rest of the orchestrator knows of the farm, whichever engine runs it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from caligo.errors import CaligoError
from caligo.phases import Phase
from caligo.results import ProtocolOutcome, ProtocolResult, Reason, ResultRows
from caligo.space import ExplorationSample
from caligo.v1 import simulator_pb2

ALWAYS_THERE: Final = "statistical"
"""The EPR source that every simulator has."""


def named(source: str, version: str) -> str:
    """A source of one version, `name==version`; its name alone where the version does not matter."""
    return f"{source}=={version}" if version else source


@dataclass(frozen=True, eq=False)
class Job:
    """The rows of one phase of one campaign.

    Attributes:
        setup: what they have in common.
        on_rows: is handed results as they come, each row once, in any order; from a thread of the farm, which it must
            not keep waiting.
        on_error: is handed what ends the job: nothing comes after it.
        source_version: the one version of the EPR source that may make its rows; empty where any may.
    """

    setup: simulator_pb2.SimulateSetup
    on_rows: Callable[[ResultRows], None]
    on_error: Callable[[CaligoError], None]
    source_version: str = ""

    @property
    def source(self) -> str:
        """The EPR source that its rows need, as `named`."""
        return named(self.setup.protocol.epr_source or ALWAYS_THERE, self.source_version)

    @property
    def context(self) -> dict[str, str]:
        """Whose rows they are, as log lines say it."""
        return {"campaign": self.setup.campaign, "phase": Phase(self.setup.phase).name.lower()}


@dataclass(frozen=True)
class FarmStats:
    """A farm at a glance; counters count from its start."""

    simulators: int
    """That take rows now."""
    room: int
    """Rows that they want to have at once."""
    waiting: int
    in_flight: int
    copies: int
    """Rows under way at a second simulator."""
    lost: int
    """Simulators that went away without a word, a counter."""
    refused: int
    """Streams that a simulator had no room for, a counter."""
    poison: int
    """Rows recorded as `failure_error` because simulators die of them, a counter."""


class Farm(Protocol):
    """Simulators without end, shared by all campaigns in proportion to their weights. All methods are thread-safe.

    What a row's result is depends on its job's setup, its index and its inputs alone, never on the farm.
    """

    def submit(self, job: Job, index: NDArray[np.int64], inputs: NDArray[np.float32]) -> None:
        """Have rows simulated, int64 [n] and float32 [n, 9]; an index comes once in a job."""

    def cancel(self, job: Job) -> None:
        """Nobody waits for the job any more: what has not begun never will, the rest ends at its next stage."""

    def set_weight(self, campaign: str, weight: int) -> None:
        """Share of a campaign (by resource name), from its next row on; 1 to 1000, 100 where nothing is said."""

    def room(self) -> int:
        """Rows that keep all simulators busy: whoever has as many under way and as many again waiting wastes none."""

    def epr_sources(self, seconds: float, wanted: str = ALWAYS_THERE) -> Mapping[str, str]:
        """EPR sources of the simulators that are asked, each with the version it was first seen in, empty if that was
        not said. No more simulators are asked once one has the source that is wanted.

        Raises:
            Unreachable: none answers in time.
        """

    def stats(self) -> FarmStats:
        """How the farm is doing."""

    def close(self) -> None:
        """Give up what is under way and let go of the simulators."""


def lost_row(index: int, inputs: NDArray[np.float32]) -> ResultRows:
    """What is recorded of a row that simulators die of, shape [1]: `failure_error`, worker lost."""
    sample = ExplorationSample.inflate(index, inputs)
    result = ProtocolResult(ProtocolOutcome.FAILURE_ERROR, Reason.WORKER_LOST, margin=math.nan, pairs=sample.N)
    return result.to_row(index, inputs)
