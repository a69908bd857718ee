"""The campaign service: requests checked and handed to `Campaigns`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Iterator
from typing import Final

import grpc
import numpy as np
import structlog

from caligo import logs, rpc, wire
from caligo.addresses import is_private
from caligo.dataset import GROUPS
from caligo.errors import InvalidArgument, NotFound, ResourceExhausted
from caligo.phases import Phase
from caligo.spec import CampaignSpec, from_proto
from caligo.tokens import Role
from caligo.v1 import campaign_pb2 as pb
from caligo.v1 import campaign_pb2_grpc
from caligo_orchestrator.api import access
from caligo_orchestrator.api.listing import parse_filter, parse_page_token
from caligo_orchestrator.campaigns.names import no_such_campaign, resource_name
from caligo_orchestrator.campaigns.resource import DEFAULT_PRIORITY, Campaigns
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_orchestrator.store.journal import CampaignFilter

log = logs.get("server")

MAX_PREDICTED_ROWS: Final = 65_536
_MAX_PAGE: Final = 1000
_DEFAULT_PAGE: Final = 50
_MAX_REQUEST_ID: Final = 64
_MAX_PRIORITY: Final = 1000
_UPDATABLE: Final = "must name what changes: spec.active.samples, priority"


class CampaignServicer(campaign_pb2_grpc.CampaignServiceServicer):
    """`caligo.v1.CampaignService`; see the contract for what each method does.

    Behind `access.Guard`, which says who calls. A campaign that is not the caller's is treated as if it were not there.
    """

    def __init__(self, campaigns: Campaigns) -> None:
        self._campaigns = campaigns

    def _seen(self, name: str) -> str:
        """A campaign's name, if it is there for the caller.

        Raises:
            NotFound: it is not, or it is not there at all.
        """
        if not access.caller().sees(self._campaigns.owner(name)):
            raise no_such_campaign(name)
        structlog.contextvars.bind_contextvars(campaign=name)
        return name

    def CreateCampaign(
        self, request: pb.CreateCampaignRequest, context: grpc.ServicerContext
    ) -> pb.CreateCampaignResponse:
        spec = from_proto(request.spec, CampaignSpec, "spec")
        if len(request.request_id) > _MAX_REQUEST_ID:
            raise InvalidArgument("request_id", f"at most {_MAX_REQUEST_ID} characters")
        if request.priority > _MAX_PRIORITY:
            raise InvalidArgument("priority", f"1 to {_MAX_PRIORITY}")
        if spec.base:
            self._check_base(spec.base)
        if request.validate_only:
            self._campaigns.check(spec)
            return pb.CreateCampaignResponse(campaign=pb.Campaign(spec=request.spec))
        campaign = self._campaigns.create(
            spec, request.request_id, request.priority or DEFAULT_PRIORITY, access.caller().owner
        )
        return pb.CreateCampaignResponse(campaign=campaign)

    def _check_base(self, base: str) -> None:
        try:
            self._seen(resource_name(base))
        except NotFound:
            raise InvalidArgument("spec.base", f"there is no campaign {base!r}") from None

    def GetCampaign(self, request: pb.GetCampaignRequest, context: grpc.ServicerContext) -> pb.GetCampaignResponse:
        return pb.GetCampaignResponse(campaign=self._campaigns.get(self._seen(request.name)))

    def ListCampaigns(
        self, request: pb.ListCampaignsRequest, context: grpc.ServicerContext
    ) -> pb.ListCampaignsResponse:
        if not 0 <= request.page_size <= _MAX_PAGE:
            raise InvalidArgument("page_size", f"0 to {_MAX_PAGE}")
        wanted, after = parse_filter(request.filter), parse_page_token(request.page_token)
        if wanted.owner is not None and not access.caller().sees(wanted.owner):
            return pb.ListCampaignsResponse()
        page, token = self._campaigns.page(_mine(wanted), after, request.page_size or _DEFAULT_PAGE)
        return pb.ListCampaignsResponse(campaigns=page, next_page_token=token)

    def UpdateCampaign(
        self, request: pb.UpdateCampaignRequest, context: grpc.ServicerContext
    ) -> pb.UpdateCampaignResponse:
        changes: dict[str, int] = {}
        for path in request.update_mask.paths:
            if path == "priority":
                if not 1 <= request.campaign.priority <= _MAX_PRIORITY:
                    raise InvalidArgument("campaign.priority", f"1 to {_MAX_PRIORITY}")
                changes["priority"] = request.campaign.priority
            elif path == "spec.active.samples":
                changes["samples"] = request.campaign.spec.active.samples
            else:
                raise InvalidArgument("update_mask", _UPDATABLE)
        if not changes:
            raise InvalidArgument("update_mask", _UPDATABLE)
        return pb.UpdateCampaignResponse(
            campaign=self._campaigns.update(self._seen(request.campaign.name), **changes, caller=context)
        )

    def DeleteCampaign(
        self, request: pb.DeleteCampaignRequest, context: grpc.ServicerContext
    ) -> pb.DeleteCampaignResponse:
        self._campaigns.delete(self._seen(request.name), context)
        return pb.DeleteCampaignResponse()

    def PauseCampaign(
        self, request: pb.PauseCampaignRequest, context: grpc.ServicerContext
    ) -> pb.PauseCampaignResponse:
        return pb.PauseCampaignResponse(campaign=self._campaigns.pause(self._seen(request.name), context))

    def ResumeCampaign(
        self, request: pb.ResumeCampaignRequest, context: grpc.ServicerContext
    ) -> pb.ResumeCampaignResponse:
        return pb.ResumeCampaignResponse(campaign=self._campaigns.resume(self._seen(request.name), context))

    def CancelCampaign(
        self, request: pb.CancelCampaignRequest, context: grpc.ServicerContext
    ) -> pb.CancelCampaignResponse:
        return pb.CancelCampaignResponse(campaign=self._campaigns.cancel(self._seen(request.name), context))

    def WatchCampaign(
        self, request: pb.WatchCampaignRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchCampaignResponse]:
        if request.after_sequence < 0:
            raise InvalidArgument("after_sequence", "must not be negative")
        yield from self._campaigns.watch(self._seen(request.name), request.after_sequence, context)

    def StreamResults(
        self, request: pb.StreamResultsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.StreamResultsResponse]:
        if request.phase not in (int(phase) for phase in GROUPS):
            raise InvalidArgument("phase", "PHASE_LHS or PHASE_ACTIVE")
        if request.start_row < 0:
            raise InvalidArgument("start_row", "must not be negative")
        phase = Phase(request.phase)
        for rows in self._campaigns.rows(self._seen(request.name), phase, request.start_row, request.follow, context):
            yield pb.StreamResultsResponse(rows=wire.encode_rows(rows), next_row=int(rows["index"][-1]) + 1)

    def DownloadDataset(
        self, request: pb.DownloadDatasetRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DownloadDatasetResponse]:
        yield from self._campaigns.file(self._seen(request.name), request.offset, request.length)

    def PredictCampaign(
        self, request: pb.PredictCampaignRequest, context: grpc.ServicerContext
    ) -> pb.PredictCampaignResponse:
        inputs = wire.decode_inputs(request.inputs)
        if len(inputs) > MAX_PREDICTED_ROWS:
            raise InvalidArgument("inputs", f"at most {MAX_PREDICTED_ROWS} rows a call")
        prediction, outside = self._campaigns.predict(self._seen(request.name), inputs)
        return pb.PredictCampaignResponse(
            prediction=wire.encode(prediction, wire.PREDICTION),
            outside=wire.encode(outside.astype(np.uint8), wire.CODE),
        )


def _mine(wanted: CampaignFilter) -> CampaignFilter:
    """What is wanted, of what is there for the caller."""
    caller = access.caller()
    return wanted if caller.role is Role.ADMIN else dataclasses.replace(wanted, owner=caller.owner)


def service(campaigns: Campaigns) -> rpc.Service:
    """The service as `caligo.rpc` registers it; `access.Guard` bounds what its callers hold."""
    register = campaign_pb2_grpc.add_CampaignServiceServicer_to_server
    return rpc.Service(access.SERVICE, register, CampaignServicer(campaigns), bounded=access.ROLES)


def serve(settings: OrchestratorSettings) -> None:
    """Run the orchestrator until it is told to stop.

    Raises:
        ResourceExhausted: the data directory's drive was lost and is back; started again, all campaigns go on.
    """
    lost = threading.Event()

    def end() -> None:
        lost.set()
        os.kill(os.getpid(), signal.SIGTERM)

    with contextlib.closing(Campaigns(settings, end)) as campaigns, access.guard(settings) as guard:
        if not settings.needs_token and not is_private(settings.address):
            log.warning("anybody who reaches the address may do everything", address=settings.address)
        rpc.run(
            settings,
            [service(campaigns)],
            interceptors=[guard],
            options=settings.server_options,
            threads=settings.threads,
            places=settings.places,
            stall_seconds=settings.stall_seconds,
            on_start=campaigns.start,
            on_stop=campaigns.stop,
        )
    if lost.is_set():
        raise ResourceExhausted(f"data_directory: {settings.data_directory} was lost and is back; start again")
