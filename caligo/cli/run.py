"""`caligo run`: a campaign with services of its own, from a spec to a report."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path

from caligo.cli.display import Display
from caligo.cli.embedded import EmbeddedServices, embedded_services
from caligo.cli.interrupts import Interrupts
from caligo.client import Campaign, CampaignClient, CampaignState, Changed, describe_problem
from caligo.errors import AlreadyExists, CampaignFailed, FailedPrecondition, InvalidArgument, NotFound, Unreachable
from caligo.layout import CAMPAIGNS_DIRECTORY, FILE_NAME, JOURNAL_NAME
from caligo.spec import CampaignSpec

_PATIENCE_SECONDS = 10.0
"""The services are on this machine: one that does not answer for so long has ended."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A campaign that ran to its end, and where what it made is."""

    campaign: Campaign
    dataset: Path
    report: Path


def check_directory(directory: Path, spec: CampaignSpec, *, resume: bool) -> None:
    """Refuse what would overwrite or mix campaigns, before anything is made.

    Raises:
        InvalidArgument: not a directory.
        AlreadyExists: it holds a campaign and neither `resume` nor the spec's `base` refers to it.
        NotFound: there is nothing to resume, or no such base.
    """
    if directory.exists() and not directory.is_dir():
        raise InvalidArgument("--output", f"{directory} is not a directory")
    occupied = (directory / JOURNAL_NAME).exists()
    if resume and not occupied:
        raise NotFound(f"--resume: {directory} holds no campaign")
    if spec.base and not (directory / CAMPAIGNS_DIRECTORY / spec.base).is_dir():
        raise NotFound(f"base: {directory} holds no campaign {spec.base!r}")
    if occupied and not resume and not spec.base:
        raise AlreadyExists(
            f"{directory}: holds a campaign already; go on with it by --resume, or choose another --output"
        )


def run(
    spec: CampaignSpec, directory: Path, interrupts: Interrupts, display: Display, *, resume: bool, workers: int | None
) -> Outcome:
    """Run the campaign with four services of its own and write its report.

    Raises:
        CampaignFailed: it failed, was cancelled or paused by itself.
        FailedPrecondition: the campaign to resume has another spec.
        InternalError: a service did not start, or ended on the way.
    """
    is_new = not directory.exists()
    with (
        contextlib.ExitStack() as stack,
        embedded_services(
            directory, interrupts, workers=workers, on_starting=lambda name: display.say(f"starting the {name}")
        ) as services,
        CampaignClient(services.address, patience_seconds=_PATIENCE_SECONDS) as client,
    ):
        try:
            campaign = _find(client, spec, directory) if resume else None
            campaign = _follow(client, campaign or client.create(spec), services, display)
        except (InvalidArgument, FailedPrecondition):
            if is_new:  # leave nothing of a campaign that never was, once the services are gone
                stack.callback(shutil.rmtree, directory, ignore_errors=True)
            raise
        except Unreachable:
            services.check()  # says which one ended, and why
            raise
    dataset = directory / CAMPAIGNS_DIRECTORY / campaign.id / FILE_NAME
    display.say("writing the report")
    from caligo.cli.report import write_report

    return Outcome(campaign, dataset, write_report(dataset, dataset.parent / "report"))


def _find(client: CampaignClient, spec: CampaignSpec, directory: Path) -> Campaign | None:
    """The campaign that an earlier run left here; None if it was interrupted before it could make one."""
    campaigns = list(client.list())
    if not campaigns:
        return None
    for campaign in campaigns:
        if campaign.spec == spec:
            return client.resume(campaign.name) if campaign.state is CampaignState.PAUSED else campaign
    if campaigns[0].spec.rules is not None:
        raise FailedPrecondition(
            f"--resume: the campaign in {directory} was {campaigns[0].spec.rules}. It cannot go on under other rules; "
            "its rows can be read and exported"
        )
    ours, theirs = spec.model_dump(), campaigns[0].spec.model_dump()
    differing = next(key for key in ours if ours[key] != theirs[key])
    raise FailedPrecondition(f"--resume: the campaign in {directory} has another {differing!r} than this spec")


def _follow(client: CampaignClient, campaign: Campaign, services: EmbeddedServices, display: Display) -> Campaign:
    """Watch the campaign until it has ended or has paused by itself."""
    events = client.watch(campaign.name)
    while not _has_stopped(campaign):
        event = next(events, None)
        services.check()
        if event is not None:
            display.show(event)
        if event is None or isinstance(event, Changed):
            campaign = client.get(campaign.name)  # the event may be one of an earlier run
    if campaign.state is not CampaignState.SUCCEEDED:
        raise CampaignFailed(describe_problem(campaign))
    return campaign


def _has_stopped(campaign: Campaign) -> bool:
    return campaign.state.is_final or (campaign.state is CampaignState.PAUSED and campaign.problem is not None)
