"""The `caligo` command.

Exit codes: 0 done, 1 nobody reads the output, 2 bad input, 3 unreachable, 4 not found or conflict, 5 campaign failed,
6 not allowed, 130 interrupted.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import traceback
from pathlib import Path

from typer.exceptions import TyperException

from caligo.errors import CaligoError, InternalError, InvalidArgument


def main() -> int:
    """Entry point: every error is one line on standard error. Returns the exit code."""
    _prepare_streams()
    try:
        from caligo.cli.app import app

        code = app(standalone_mode=False) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # as Typer has it where a command itself finds out
        return 1
    except Exception as error:
        complain(describe(error))
        return exit_code(error)
    finally:
        _give_up_what_cannot_be_written()


def describe(error: Exception) -> str:
    """What went wrong as one line, whatever it was."""
    match error:
        case CaligoError():
            text = str(error)
        case TyperException():  # an unknown option, a missing argument
            text = error.format_message()
        case OSError(strerror=str(reason)):
            text = f"{error.filename}: {reason}" if error.filename else reason
        case _:
            frames = traceback.extract_tb(error.__traceback__)
            place = f" (at {Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
            text = f"{type(error).__name__}: {error}{place}"
    return " ".join(text.split())


def exit_code(error: Exception) -> int:
    match error:
        case CaligoError() | TyperException():
            return error.exit_code
        case OSError():
            return InvalidArgument.exit_code
        case _:
            return InternalError.exit_code


def complain(line: str) -> None:
    """One line on standard error, if anything can be written there."""
    with contextlib.suppress(OSError):
        print(f"caligo: {line}", file=sys.stderr)


def _prepare_streams() -> None:
    """Have all three of them, and have them take every character."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed; the next file that is opened would take its number
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
    codecs.register_error("caligo", _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="caligo")


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an output cannot encode."""
    assert isinstance(error, UnicodeEncodeError)
    characters = error.object[error.start : error.end]
    return "".join({"±": "+-", "–": "-", "×": "x"}.get(c, "?") for c in characters), error.end


def _give_up_what_cannot_be_written() -> None:
    """On a full disk, say: the interpreter would try again at its end, complain and change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
