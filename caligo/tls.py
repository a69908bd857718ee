"""TLS: who we are and whom we trust, the same on both sides of a connection.

A server with a `ca` asks every client for a certificate signed by it (mutual TLS). Files are read at start and, by
whoever serves or keeps a channel for long, again when they have changed: a renewed certificate needs no restart.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc

from caligo import logs
from caligo.errors import InvalidArgument

log = logs.get("tls")


@dataclass(frozen=True)
class Tls:
    """PEM files of one side.

    Attributes:
        ca: certificates of the authorities that the other side's certificate must come from. On a server None asks
            clients for none.
        certificate, key: our own certificate with what leads to its authority, and its key without a password; a client
            may have none.
        server_name: the name that a server's certificate must hold, where it is not that of the address.
        fields: what `ca`, `certificate` and `key` are called where they were set, for errors.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""
    fields: tuple[str, str, str] = ("ca_certificate", "certificate", "key")

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Look at the files.

        Raises:
            InvalidArgument: one cannot be read, holds something else, or key and certificate do not belong together.
        """
        ca, certificate, key = self.fields
        if (self.certificate is None) != (self.key is None):
            missing, there = (key, certificate) if self.key is None else (certificate, key)
            raise InvalidArgument(missing, f"must be set where {there} is")
        for field, path in zip(self.fields, (self.ca, self.certificate, self.key), strict=True):
            if path is not None:
                _read(path, field)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self.ca is not None:
            try:
                context.load_verify_locations(self.ca)
            except ssl.SSLError:
                raise InvalidArgument(ca, f"{self.ca} holds no certificate (PEM)") from None
        if self.certificate is not None and self.key is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.certificate)
            except ssl.SSLError:
                raise InvalidArgument(certificate, f"{self.certificate} holds no certificate (PEM)") from None
            try:
                context.load_cert_chain(self.certificate, self.key, password=lambda: b"")  # nobody is asked for one
            except ssl.SSLError as error:
                if error.reason == "KEY_VALUES_MISMATCH":
                    raise InvalidArgument(key, f"{self.key} is not the key of {self.certificate}") from None
                raise InvalidArgument(key, f"{self.key} holds no key without a password (PEM)") from None

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials that take changed files over at the next handshake; certificate and key must be set."""
        renewals = Renewals(self)

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            return self._configuration() if renewals.take() else None

        reload = cast(Callable[[], grpc.ServerCertificateConfiguration], renewed)  # None keeps the old ones
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(), reload, require_client_authentication=self.ca is not None
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials of a client; with no `ca`, gRPC's own list of authorities is trusted."""
        ca, certificate, key = self._contents()
        return grpc.ssl_channel_credentials(ca, key, certificate)

    def channel_options(self) -> tuple[tuple[str, str], ...]:
        """gRPC's options of a client: the name that the server's certificate is held to, where it is another."""
        return (("grpc.ssl_target_name_override", self.server_name),) if self.server_name else ()

    def _contents(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        ca, certificate, key = (
            _read(path, field) if path is not None else None
            for field, path in zip(self.fields, (self.ca, self.certificate, self.key), strict=True)
        )
        return ca, certificate, key

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        ca, certificate, key = self._contents()
        assert certificate is not None and key is not None
        return grpc.ssl_server_certificate_configuration([(key, certificate)], ca)

    def _stamps(self) -> list[tuple[int, int]]:
        paths = [path for path in (self.ca, self.certificate, self.key) if path is not None]
        return [((status := path.stat()).st_mtime_ns, status.st_ino) for path in paths]


class Renewals:
    """Looks for changed files, from any thread. While they do not fit together, they have not changed."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._stamps = tls._stamps()
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether there are files that can be used and are others than the last time; it is said once."""
        with self._lock:
            try:
                stamps = self._tls._stamps()
                if stamps == self._stamps:
                    return False
                self._tls.check()
            except (InvalidArgument, OSError) as error:  # half written, say; who looks again will see
                log.warning("changed certificates cannot be used, keeping the old ones", problem=str(error))
                return False
            self._stamps = stamps
            log.info("certificates read again")
            return True


def speaks_tls(address: str) -> bool:
    """Whether somebody at `host:port` answers through TLS, whoever it is; takes a second at most."""
    host, _, port = address.removeprefix("dns:///").rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((host.strip("[]"), int(port)), 1.0) as plain, context.wrap_socket(plain):
            return True
    except (OSError, ValueError):  # nobody, something else, or a Unix socket
        return False


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgument(field, f"{path}: {error.strerror}") from None
