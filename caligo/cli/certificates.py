"""Certificates for development and for a private network: an authority of one's own, and what it signs."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Final

from caligo.errors import InvalidArgument

CA_FILE: Final = "ca.pem"
CA_KEY_FILE: Final = "ca-key.pem"
_DAYS: Final = 825
"""How long a certificate is good: what clients of the web accept at most."""


def make_certificates(directory: Path, hosts: list[str]) -> list[Path]:
    """Write an authority, unless there is one in the directory, and for each of `hosts` a certificate and its key.

    Args:
        hosts: names and IP addresses of one certificate, separated by commas; its files are called after the first.

    Returns:
        the files written, `NAME.pem` and `NAME-key.pem` a certificate; keys can be read by their owner alone.

    Raises:
        InvalidArgument: trustme is not installed, a name is none, or the directory cannot be written.
    """
    try:
        import trustme
    except ImportError:
        raise InvalidArgument("caligo certificates", "needs trustme: pip install 'caligo[certificates]'") from None
    named = [[name.strip() for name in host.split(",")] for host in hosts]
    for names in named:
        if not all(names) or any("/" in name for name in names):
            raise InvalidArgument("--host", "must be names or IP addresses, separated by commas")
    expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=_DAYS)
    written: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        ca_file, ca_key_file = directory / CA_FILE, directory / CA_KEY_FILE
        if ca_file.exists() != ca_key_file.exists():
            raise InvalidArgument(
                str(directory), f"holds only one of {CA_FILE} and {CA_KEY_FILE}; take another directory"
            )
        if ca_file.exists():
            ca = trustme.CA.from_pem(ca_file.read_bytes(), ca_key_file.read_bytes())
        else:
            ca = trustme.CA(organization_name="Caligo development")
            written += [_write(ca_file, ca.cert_pem.bytes()), _write(ca_key_file, ca.private_key_pem.bytes(), 0o600)]
        for names in named:
            leaf = ca.issue_cert(*names, not_after=expiry)
            chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
            written += [
                _write(directory / f"{names[0]}.pem", chain),
                _write(directory / f"{names[0]}-key.pem", leaf.private_key_pem.bytes(), 0o600),
            ]
    except OSError as error:
        raise InvalidArgument(str(directory), error.strerror or "cannot be written") from None
    except ValueError as error:
        raise InvalidArgument("--host", str(error)) from None
    return written


def _write(path: Path, content: bytes, mode: int = 0o644) -> Path:
    """The file appears complete, so that a service that reads it again at that moment finds the old or the new one."""
    part = path.with_name(f".{path.name}.part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:  # noqa: PTH123
        os.fchmod(file.fileno(), mode)
        file.write(content)
    part.replace(path)
    return path
