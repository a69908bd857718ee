"""A running orchestrator, for scripts, notebooks and asyncio.

    from caligo.client import CampaignClient
    from caligo.spec import CampaignSpec

    with CampaignClient("127.0.0.1:50050") as client:
        campaign = client.create(CampaignSpec(name="first-look"))
        campaign = client.wait(campaign.name)
        client.download(campaign.name, "first-look.h5")

    async with AsyncCampaignClient("127.0.0.1:50050") as client:
        async for event in client.watch("first-look"):
            print(event)

Campaigns go by their resource name, `campaigns/{id}`, or by the id alone. Calls raise the errors of `caligo.errors`;
each method may raise `Unreachable` (nobody answers), `Unauthenticated` and `PermissionDenied` (the token) and
`ResourceExhausted` (a limit) besides those that it names.
"""

from caligo.client.aio import AsyncCampaignClient
from caligo.client.model import (
    Campaign,
    CampaignState,
    Changed,
    Event,
    Heartbeat,
    Noted,
    Progressed,
    check_success,
    describe_problem,
    resource_name,
)
from caligo.client.sync import CampaignClient

__all__ = [
    "AsyncCampaignClient",
    "Campaign",
    "CampaignClient",
    "CampaignState",
    "Changed",
    "Event",
    "Heartbeat",
    "Noted",
    "Progressed",
    "check_success",
    "describe_problem",
    "resource_name",
]
