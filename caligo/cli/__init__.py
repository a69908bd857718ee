"""The `caligo` command.

Exit codes: 0 done, 2 bad input, 3 unreachable, 4 not found or conflict, 5 campaign failed, 6 not allowed,
130 interrupted.
"""

from __future__ import annotations

import sys

from typer.exceptions import TyperException

from caligo.errors import CaligoError


def main() -> int:
    """Entry point: every error is one line on standard error. Returns the exit code."""
    from caligo.cli.app import app

    try:
        return app(standalone_mode=False) or 0
    except CaligoError as error:
        complain(str(error))
        return error.exit_code
    except TyperException as error:  # an unknown option, a missing argument
        complain(" ".join(error.format_message().split()))
        return error.exit_code


def complain(line: str) -> None:
    """One line on standard error."""
    print(f"caligo: {line}", file=sys.stderr)
