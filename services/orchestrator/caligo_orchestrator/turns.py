"""Whose turn it is: campaigns that wait to be run, by priority and then by age."""

from __future__ import annotations

import threading


class Turns:
    """The campaigns that wait, and the threads that wait for one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[str, tuple[int, float]] = {}
        self._is_closed = False

    def put(self, id: str, priority: int, create_time: float) -> None:
        """Let a campaign wait; one that waits already takes the priority given."""
        with self._changed:
            self._waiting[id] = -priority, create_time
            self._changed.notify()

    def take(self) -> str | None:
        """The campaign whose turn it is; waits for one. None when closed."""
        with self._changed:
            while not self._waiting and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                return None
            id = min(self._waiting, key=self._waiting.__getitem__)
            del self._waiting[id]
            return id

    def __contains__(self, id: str) -> bool:
        with self._changed:
            return id in self._waiting

    def close(self) -> None:
        """No more turns."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
