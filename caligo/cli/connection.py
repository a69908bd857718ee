"""How the remote commands reach the orchestrator: beside `--address`, whom to trust and who asks.

A token is read from a file or from the environment and never from the command line, which every process may read.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from caligo.errors import InvalidArgument

if TYPE_CHECKING:
    from caligo.client import CampaignClient

TOKEN_VARIABLE: Final = "CALIGO_TOKEN"
_FIELDS: Final = ("--ca-certificate", "--certificate", "--key")


def _option(variable: str, metavar: str, help: str) -> Any:
    return typer.Option(
        envvar=variable, metavar=metavar, help=help, show_default=False, rich_help_panel="Connection", show_envvar=True
    )


_OPTIONS: Final[dict[str, Any]] = {
    "token_file": Annotated[
        Path | None, _option("CALIGO_TOKEN_FILE", "FILE", f"File with the token; ${TOKEN_VARIABLE} goes before it.")
    ],
    "ca_certificate": Annotated[
        Path | None,
        _option("CALIGO_CA_CERTIFICATE", "PEM", "Authorities that the server's certificate must come from: use TLS."),
    ],
    "certificate": Annotated[
        Path | None, _option("CALIGO_CERTIFICATE", "PEM", "Own certificate, where the server asks for one.")
    ],
    "key": Annotated[Path | None, _option("CALIGO_KEY", "PEM", "Key of the own certificate.")],
    "server_name": Annotated[
        str, _option("CALIGO_SERVER_NAME", "NAME", "Name in the server's certificate, if not that of the address.")
    ],
}

_connection: contextvars.ContextVar[Callable[[str], CampaignClient]] = contextvars.ContextVar("connection")


def connect(address: str) -> CampaignClient:
    """A client as the options of the command that runs say."""
    return _connection.get()(address)


def add_options(app: typer.Typer) -> None:
    """Give every command with an `address` the other options of a connection."""
    for command in app.registered_commands:
        if command.callback is not None and "address" in inspect.signature(command.callback).parameters:
            command.callback = _connecting(command.callback)


def _connecting(command: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(command)
    def run(**values: Any) -> None:
        options = {name: values.pop(name) for name in _OPTIONS}
        _connection.set(functools.partial(_connect, **options))
        command(**values)

    signature = inspect.signature(command, eval_str=True)
    own = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default="" if name == "server_name" else None, annotation=annotation
        )
        for name, annotation in _OPTIONS.items()
    ]
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *own])  # type: ignore[attr-defined]
    return run


def _connect(
    address: str,
    *,
    token_file: Path | None,
    ca_certificate: Path | None,
    certificate: Path | None,
    key: Path | None,
    server_name: str,
) -> CampaignClient:
    from caligo.client import CampaignClient
    from caligo.tls import Tls

    if ca_certificate is None:
        for field, value in (("--certificate", certificate), ("--key", key), ("--server-name", server_name)):
            if value:
                raise InvalidArgument(field, "needs --ca-certificate")
        tls = None
    else:
        tls = Tls(ca_certificate, certificate, key, server_name, _FIELDS)
    return CampaignClient(address, token=_read_token(token_file), tls=tls)


def _read_token(file: Path | None) -> str:
    if token := os.environ.get(TOKEN_VARIABLE, ""):
        return token.strip()
    if file is None:
        return ""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InvalidArgument("--token-file", f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidArgument("--token-file", f"{file}: is not text") from None
