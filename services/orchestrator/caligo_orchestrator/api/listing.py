"""What a list request asks for: its filter, and the place where a page goes on."""

from __future__ import annotations

import re
from typing import Any, Final

from caligo.errors import InvalidArgument
from caligo.v1 import campaign_pb2
from caligo_orchestrator.store.journal import CampaignFilter, CampaignRecord

_STATES: Final = {name.removeprefix("CAMPAIGN_STATE_"): n for name, n in campaign_pb2.CampaignState.items() if n}
_TERM: Final = re.compile(r"(state|owner)=([^\s=:]+)|name:([a-z0-9-]+)")
_ALLOWED: Final = f"state=S with S one of {', '.join(_STATES)}, owner=NAME, name:PREFIX, or some of them joined by AND"


def parse_filter(text: str) -> CampaignFilter:
    """`state=RUNNING`, `owner=ada`, `name:cliff`, or some of them joined by `AND`; empty for all.

    Raises:
        InvalidArgument: it is none of these.
    """
    wanted: dict[str, Any] = {}
    for term in re.split(r"\s+AND\s+", text.strip()) if text.strip() else ():
        match = _TERM.fullmatch(term)
        key, value, prefix = match.groups() if match else ("", "", "")
        if prefix:
            key, value = "prefix", prefix
        if key == "state":
            value = _STATES.get(value)
        if not key or value is None or key in wanted:
            raise InvalidArgument("filter", _ALLOWED)
        wanted[key] = value
    return CampaignFilter(**wanted)


def page_token(last: CampaignRecord) -> str:
    """Names the page that comes after a campaign, whatever is made or removed meanwhile."""
    return f"{last.create_time!r}.{last.id}"


def parse_page_token(token: str) -> tuple[float, str] | None:
    """(create_time, id) of the campaign after which the page begins; None for the first page.

    Raises:
        InvalidArgument: it is none that `page_token` makes.
    """
    if not token:
        return None
    match = re.fullmatch(r"(\d+\.\d+(?:e[+-]?\d+)?)\.([a-z0-9-]+)", token)
    if match is None:
        raise InvalidArgument("page_token", "must come from an earlier answer")
    return float(match[1]), match[2]
