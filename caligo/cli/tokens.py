"""`caligo token`: tokens of an orchestrator's clients, made and revoked in its data directory."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from caligo.errors import InvalidArgument, NotFound
from caligo.layout import JOURNAL_NAME

if TYPE_CHECKING:
    from caligo.tokens import Tokens

token_app = typer.Typer(
    no_args_is_help=True,
    help="Make, list and revoke tokens of an orchestrator's clients, in its data directory; it may run meanwhile.",
)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output: one object, or one a line.")]
_DataDirectory = Annotated[
    Path,
    typer.Option(envvar="CALIGO_ORCHESTRATOR_DATA_DIRECTORY", metavar="DIR", help="The orchestrator's data directory."),
]
_Name = Annotated[str, typer.Argument(metavar="NAME", help="What the token is called.", show_default=False)]
_DEFAULT_DIRECTORY: Final = Path("caligo-data")


@token_app.command()
def create(
    name: _Name,
    role: Annotated[
        str,
        typer.Option(
            help="`read`: see the owner's campaigns; `submit`: make and change them as well; `admin`: everybody's too."
        ),
    ] = "submit",
    owner: Annotated[
        str | None,
        typer.Option(help="Whose campaigns it is for; several tokens may share an owner.", show_default="NAME"),
    ] = None,
    data_directory: _DataDirectory = _DEFAULT_DIRECTORY,
    json: _Json = False,
) -> None:
    """Make a token and print it; it is not kept and cannot be shown again.

    Example: `caligo token create dashboard --role read --owner alice --data-directory data > dashboard.token`
    """
    from caligo.cli.output import print_json
    from caligo.tokens import Role, Tokens

    if role.upper() not in Role.__members__:
        raise InvalidArgument("--role", f"must be one of {', '.join(r.name.lower() for r in Role)}, not {role!r}")
    with Tokens(data_directory) as tokens:
        token = tokens.create(name, Role[role.upper()], owner or name)
    if json:
        print_json({"name": name, "owner": owner or name, "role": role.lower(), "token": token})
    else:
        typer.echo(token)


@token_app.command("list")
def list_command(data_directory: _DataDirectory = _DEFAULT_DIRECTORY, json: _Json = False) -> None:
    """List tokens, revoked ones too; of the token itself only its last four characters are known.

    Example: `caligo token list --data-directory data`
    """
    from rich.table import Table

    from caligo.cli.output import console, print_json

    with _open(data_directory) as tokens:
        records = tokens.records()
    if json:
        for record in records:
            print_json({**dataclasses.asdict(record), "role": record.role.name.lower()})
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("TOKEN", "OWNER", "ROLE", "ENDS IN", "CREATED (UTC)", "REVOKED (UTC)"):
        table.add_column(heading, no_wrap=True)
    for record in records:
        revoked = "" if record.revoke_time is None else _to_text(record.revoke_time)
        table.add_row(
            record.name,
            record.owner,
            record.role.name.lower(),
            record.last_four,
            _to_text(record.create_time),
            revoked,
        )
    console.print(table)


@token_app.command()
def revoke(name: _Name, data_directory: _DataDirectory = _DEFAULT_DIRECTORY, json: _Json = False) -> None:
    """Make a token worthless, at once.

    Example: `caligo token revoke dashboard --data-directory data`
    """
    from caligo.cli.output import print_json

    with _open(data_directory) as tokens:
        tokens.revoke(name)
    if json:
        print_json({"revoked": name})


def _open(data_directory: Path) -> Tokens:
    from caligo.tokens import Tokens

    if not (data_directory / JOURNAL_NAME).exists():
        raise NotFound(f"{data_directory}: no orchestrator's data directory; see --data-directory")
    return Tokens(data_directory)


def _to_text(seconds: float) -> str:
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M}"
