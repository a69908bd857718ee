"""Structured logs: one event a line on standard error, as text on a terminal and as JSON elsewhere."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    import structlog


def configure(level: str = "info", *, service: str = "", processors: Sequence[structlog.types.Processor] = ()) -> None:
    """Set up logging for this process; every line carries `service`, whatever contextvars hold, and what further
    processors add to it."""
    import structlog

    def add_service(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {**line, "service": service} if service else line

    renderer = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(default=str)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_service,
            *processors,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *([] if sys.stderr.isatty() else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _StandardError())),
        cache_logger_on_first_use=True,
    )


class _StandardError:
    """Standard error; a line that cannot be written, on a full disk say, is lost, and what it told of goes on."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


class _Logger:
    """structlog's logger, loaded when there is something to say: a command that asks a server rarely has."""

    def __init__(self, name: str) -> None:
        self._name = name

    @functools.cached_property
    def _loaded(self) -> structlog.stdlib.BoundLogger:
        import structlog

        if not structlog.is_configured():
            structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _StandardError())))
        return structlog.get_logger(component=self._name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loaded, name)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """A logger. `campaign` and `row` are bound in structlog's context where the work on them begins.

    Until `configure` is called, in a command or a script, lines go to standard error as text.
    """
    return cast("structlog.stdlib.BoundLogger", _Logger(name))
