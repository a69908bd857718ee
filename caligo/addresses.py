"""Where a service listens: `host:port`, `dns:///name:port` or `unix:PATH`."""

from __future__ import annotations

import ipaddress
import os
from typing import Final

_PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS: Final = ("no_grpc_proxy", "no_proxy")
"""Variables that gRPC asks for a proxy and for what needs none; the first that is set."""


def is_private(address: str) -> bool:
    """Whether only this machine can reach an address: loopback or a Unix socket."""
    if address.startswith("unix:"):
        return True
    host = _host(address)
    ip = _ip(host)
    return host == "localhost" if ip is None else ip.is_loopback


def proxy_variable(address: str) -> str:
    """Name of the environment's variable whose proxy leads to an address; empty where the way is direct.

    It is to what is on this machine or, by its number, in a private network, whatever the environment says.
    """
    host = _host(address)
    ip = _ip(host)
    variable = _first_set(_PROXIES)
    if not variable or is_private(address) or (ip is not None and (ip.is_private or ip.is_link_local)):
        return ""
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # of use to few, and much

    return "" if proxy_bypass_environment(host, {"no": os.environ.get(_first_set(_EXCEPTIONS), "")}) else variable


def _first_set(names: tuple[str, ...]) -> str:
    return next((name for name in names if os.environ.get(name)), "")


def _host(address: str) -> str:
    return address.removeprefix("dns:///").rpartition(":")[0].strip("[]")


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
