"""Weighted fair queueing: campaigns share the simulators in proportion to their weights, row by row.

Start-time fair queueing (P. Goyal, H. M. Vin, H. Cheng, IEEE/ACM Transactions on Networking 5, 1997, 690-704): each
flow has a start tag in virtual time, the row of the flow with the smallest tag is next, and a row moves its flow's tag
on by the row's cost over the flow's weight. Virtual time is the tag of the last row taken, so a flow that was empty
begins where the others are: it neither catches up on time it did not use nor waits behind what others have queued.
"""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic, TypeVar

Row = TypeVar("Row")

DEFAULT_WEIGHT: Final = 100
_COST: Final = math.lcm(*range(1, 1001))
"""Of a row, in units that every weight divides."""


class FairQueue(Generic[Row]):
    """Rows of several flows in the order in which they are to be simulated; each costs the same.

    Over any time in which flows f and g both have rows, the rows n that are taken from them keep to their weights w:
    |n_f / w_f - n_g / w_g| <= 1 / w_f + 1 / w_g. For one thread at a time.
    """

    def __init__(self) -> None:
        self._flows: dict[str, collections.deque[Row]] = {}
        """Those that have rows, in the order in which they came."""
        self._tags: dict[str, int] = {}
        """Start tags of those, and of others that are not due yet."""
        self._weights: dict[str, int] = {}
        self._now = 0

    def __len__(self) -> int:
        return sum(map(len, list(self._flows.values())))

    def __iter__(self) -> Iterator[Row]:
        """All rows, in no order."""
        return itertools.chain.from_iterable(self._flows.values())

    def __bool__(self) -> bool:
        return bool(self._flows)

    def set_weight(self, flow: str, weight: int) -> None:
        """Share of a flow from its next row on, relative to the others'; 1 to 1000."""
        self._weights[flow] = weight

    def push(self, flow: str, rows: Iterable[Row]) -> None:
        """Rows at the end of a flow."""
        if added := list(rows):
            self._flow(flow).extend(added)

    def push_back(self, flow: str, rows: Iterable[Row]) -> None:
        """Rows that were taken and have to be taken again, ahead of the others of their flow."""
        if added := list(rows):
            self._flow(flow).extendleft(reversed(added))

    def heads(self) -> Iterator[Row]:
        """The first row of each flow."""
        return (rows[0] for rows in self._flows.values())

    def pop(self, admits: Callable[[Row], bool] = lambda row: True) -> Row:
        """The next row of the flows whose first row is admitted. Raises IndexError where there is none."""
        admitted = [flow for flow, rows in self._flows.items() if admits(rows[0])]
        if not admitted:
            raise IndexError("no row waits")
        flow = min(admitted, key=self._tags.__getitem__)  # the first of equals
        row = self._flows[flow].popleft()
        self._now = self._tags[flow]
        self._tags[flow] += _COST // self._weights.get(flow, DEFAULT_WEIGHT)
        self._drop_empty(flow)
        return row

    def remove(self, flow: str, unwanted: Callable[[Row], bool]) -> None:
        """Take rows out of a flow."""
        if flow in self._flows:
            self._flows[flow] = collections.deque(row for row in self._flows[flow] if not unwanted(row))
            self._drop_empty(flow)

    def _flow(self, flow: str) -> collections.deque[Row]:
        if flow not in self._flows:
            self._flows[flow] = collections.deque()
            self._tags[flow] = max(self._now, self._tags.get(flow, 0))
        return self._flows[flow]

    def _drop_empty(self, flow: str) -> None:
        if not self._flows[flow]:
            del self._flows[flow]
            self._tags = {name: tag for name, tag in self._tags.items() if name in self._flows or tag > self._now}
