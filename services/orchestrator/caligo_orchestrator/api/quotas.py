"""How much a client may have. Over a limit an error names it, its value and when to try again."""

from __future__ import annotations

import dataclasses
from typing import Final, Self

from caligo.errors import ResourceExhausted
from caligo.spec import CampaignSpec

_CAMPAIGN_SECONDS: Final = 60.0


@dataclasses.dataclass(frozen=True)
class Holding:
    """What a client has: campaigns and the rows that their specs ask for, and how much of both has not ended."""

    campaigns: int = 0
    rows: int = 0
    active_campaigns: int = 0
    active_rows: int = 0

    @classmethod
    def of(cls, campaigns: int, rows: int, *, is_active: bool) -> Self:
        """Campaigns that all have ended, or all have not."""
        return cls(campaigns, rows, campaigns * is_active, rows * is_active)

    @classmethod
    def of_spec(cls, spec: CampaignSpec) -> Self:
        """A campaign of this spec that has not ended."""
        return cls.of(1, sum(phase.samples for phase in (spec.lhs, spec.active) if not phase.skip), is_active=True)

    def __add__(self, other: Holding) -> Self:
        sums = (getattr(self, field.name) + getattr(other, field.name) for field in dataclasses.fields(self))
        return type(self)(*sums)


@dataclasses.dataclass(frozen=True)
class Quotas:
    """What one client may have; field by field the orchestrator's settings `client_*`."""

    client_active_campaigns: int
    client_campaigns: int
    client_active_rows: int
    client_rows: int

    def check(self, wanted: Holding) -> None:
        """Whether a client may have so much.

        Raises:
            ResourceExhausted: names the limit.
        """
        for limit, amount, what in (
            ("client_active_campaigns", wanted.active_campaigns, "campaigns that have not ended"),
            ("client_active_rows", wanted.active_rows, "rows in campaigns that have not ended"),
        ):
            self._compare(limit, amount, what, "wait until one has ended, or cancel one", _CAMPAIGN_SECONDS)
        for limit, amount, what in (
            ("client_campaigns", wanted.campaigns, "campaigns"),
            ("client_rows", wanted.rows, "rows in campaigns"),
        ):
            self._compare(limit, amount, what, "delete one that has ended", None)

    def _compare(self, limit: str, amount: int, what: str, remedy: str, retry: float | None) -> None:
        most = getattr(self, limit)
        if amount > most:
            raise ResourceExhausted(
                f"{limit}: a client may have {most:,} {what}, this would make {amount:,}; {remedy}",
                limit=limit,
                value=most,
                retry_after_seconds=retry,
            )
