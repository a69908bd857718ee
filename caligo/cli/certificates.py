"""Certificates for development and for a private network: an authority of one's own, and what it signs."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Final

from caligo.cli import complain
from caligo.errors import InvalidArgument

CA_FILE: Final = "ca.pem"
CA_KEY_FILE: Final = "ca-key.pem"
_LIFE: Final = datetime.timedelta(days=825)
"""How long a certificate is good: what clients of the web accept at most."""
_MONTH: Final = datetime.timedelta(days=30)
"""What must be left of that for a certificate to be kept."""


def make_certificates(
    directory: Path, hosts: list[str], *, authority: Path | None = None, apart: bool = False, renew: bool = False
) -> list[Path]:
    """Write an authority, unless there is one, and for each of `hosts` a certificate and its key.

    A certificate that is there stays if it holds the names and is good for another month.

    Args:
        hosts: names and IP addresses of one certificate, separated by commas; its files are called after the first.
        authority: where the authority and its key are kept, by default `directory`. Certificates of another authority
            are then left as they are, with a warning where one does not do.
        apart: each certificate in a directory of its own, DIRECTORY/NAME.
        renew: make every certificate anew.

    Returns:
        the files written, `NAME.pem` and `NAME-key.pem` a certificate, and beside them the authority's `ca.pem`; keys
        can be read by their owner alone.

    Raises:
        InvalidArgument: trustme is not installed, a name is none, a file is no certificate, a directory cannot be
            written, or what is there does not do and its authority's key is not there to make it anew.
    """
    try:
        import trustme
    except ImportError:
        raise InvalidArgument("caligo certificates", "needs trustme: pip install 'caligo[certificates]'") from None
    named = [[name.strip() for name in host.split(",")] for host in hosts]
    for names in named:
        if not all(names) or any("/" in name for name in names):
            raise InvalidArgument("--host", "must be names or IP addresses, separated by commas")
    homes = {names[0]: directory / names[0] if apart else directory for names in named}
    keep = authority or directory
    now = datetime.datetime.now(datetime.UTC)
    wanted = [
        names for names in named if renew or not _is_good(homes[names[0]] / f"{names[0]}.pem", names, now + _MONTH)
    ]
    if not wanted:
        return []
    written: list[Path] = []
    try:
        ca_file, ca_key_file = keep / CA_FILE, keep / CA_KEY_FILE
        theirs = [home / CA_FILE for home in homes.values() if (home / CA_FILE).exists()]
        if ca_file.exists() != ca_key_file.exists() or (theirs and not ca_file.exists()):
            lacking = ", ".join(f"{names[0]}.pem" for names in wanted)
            whose = (theirs or [ca_file])[0]
            problem = f"{lacking} is missing, lacks a name or ends soon, and the key of {whose} is not in {keep}"
            if authority is None or not theirs:
                raise InvalidArgument(str(directory), f"{problem}; take another directory")
            complain(f"{directory}: {problem}; left as it is")
            return []
        keep.mkdir(parents=True, exist_ok=True)
        if ca_file.exists():
            ca = trustme.CA.from_pem(ca_file.read_bytes(), ca_key_file.read_bytes())
        else:
            ca = trustme.CA(organization_name="Caligo development")
            written += [_write(ca_file, ca.cert_pem.bytes()), _write(ca_key_file, ca.private_key_pem.bytes(), 0o600)]
        for path in theirs:
            if path.read_bytes() != ca.cert_pem.bytes():
                raise InvalidArgument(str(path), f"is not the authority in {keep}; take another directory")
        for names in wanted:
            home = homes[names[0]]
            home.mkdir(parents=True, exist_ok=True)
            if not (home / CA_FILE).exists():
                written.append(_write(home / CA_FILE, ca.cert_pem.bytes()))
            leaf = ca.issue_cert(*names, not_after=now + _LIFE)
            chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
            written += [
                _write(home / f"{names[0]}.pem", chain),
                _write(home / f"{names[0]}-key.pem", leaf.private_key_pem.bytes(), 0o600),
            ]
    except OSError as error:
        raise InvalidArgument(error.filename or str(directory), error.strerror or "cannot be written") from None
    except ValueError as error:
        raise InvalidArgument("--host", str(error)) from None
    return written


def _is_good(path: Path, names: list[str], until: datetime.datetime) -> bool:
    """Whether a certificate and its key are there, and it holds these names and is good until then."""
    from cryptography import x509  # comes with trustme

    if not path.exists() or not path.with_name(f"{path.stem}-key.pem").exists():
        return False
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        raise InvalidArgument(str(path), "must be a certificate (PEM) with the names of its hosts") from None
    known = {str(name.value).lower() for name in held}
    return {name.lower() for name in names} <= known and certificate.not_valid_after_utc > until


def _write(path: Path, content: bytes, mode: int = 0o644) -> Path:
    """The file appears complete, so that a service that reads it again at that moment finds the old or the new one."""
    part = path.with_name(f".{path.name}.part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:  # noqa: PTH123
        os.fchmod(file.fileno(), mode)
        file.write(content)
    part.replace(path)
    return path
