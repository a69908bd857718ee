"""`caligo run`: a campaign with services of its own, from a spec to a report."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from caligo.cli.display import Display
from caligo.cli.embedded import EmbeddedServices, embedded_services
from caligo.cli.interrupts import Interrupts
from caligo.client import Campaign, CampaignClient, CampaignState, Changed, describe_problem
from caligo.errors import AlreadyExists, CampaignFailed, FailedPrecondition, InvalidArgument, NotFound, Unreachable
from caligo.layout import CAMPAIGNS_DIRECTORY, FILE_NAME, JOURNAL_NAME, RUN_LOCK, hold
from caligo.spec import CampaignSpec

_PATIENCE_SECONDS = 10.0
"""The services are on this machine: one that does not answer for so long has ended."""


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
) -> tuple[Campaign, Path]:
    """Run the campaign with four services of its own; returns it with its file.

    Raises:
        CampaignFailed: it failed, was cancelled or paused by itself.
        FailedPrecondition: another run works in the directory, or the campaign to resume has another spec.
        InternalError: a service did not start, or ended on the way.
    """
    with _alone_in(directory) as is_new:
        check_directory(directory, spec, resume=resume)  # once more: another run may have been there meanwhile
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
    return campaign, directory / CAMPAIGNS_DIRECTORY / campaign.id / FILE_NAME


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[bool]:
    """Keep other runs out of a directory; yields whether it was made just now.

    Raises:
        FailedPrecondition: another run works there.
        InvalidArgument: it cannot be made or written.
    """
    try:
        is_new = _make(directory)
        lock = hold(directory / RUN_LOCK)
    except BlockingIOError:
        raise FailedPrecondition(f"{directory}: another `caligo run` works there") from None
    except OSError as error:
        raise InvalidArgument(str(directory), error.strerror or "cannot be made") from None
    with lock:
        yield is_new


def _make(directory: Path) -> bool:
    """Whether the directory was made, by nobody else at the same moment."""
    try:
        directory.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


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
