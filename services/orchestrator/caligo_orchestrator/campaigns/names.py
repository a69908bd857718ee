"""Names of campaigns as resources: `campaigns/{id}`."""

from __future__ import annotations

from typing import Final

from caligo.errors import NotFound

PREFIX: Final = "campaigns/"


def resource_name(id: str) -> str:
    """`campaigns/{id}`."""
    return PREFIX + id


def campaign_id(name: str) -> str | None:
    """The id in a resource name; None where it is none of a campaign."""
    return name.removeprefix(PREFIX) if name.startswith(PREFIX) else None


def no_such_campaign(name: str) -> NotFound:
    """The answer for a campaign that is not there, or not there for whoever asks."""
    return NotFound(f"{name[:100]!r}: no such campaign (names look like {PREFIX}first-cliff)")
