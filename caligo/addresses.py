"""Where a service listens: `host:port`, `dns:///name:port` or `unix:PATH`."""

from __future__ import annotations

import ipaddress


def is_private(address: str) -> bool:
    """Whether only this machine can reach an address: loopback or a Unix socket."""
    if address.startswith("unix:"):
        return True
    host = address.removeprefix("dns:///").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
