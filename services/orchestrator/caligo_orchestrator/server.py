"""The campaign service: requests checked and handed to `Campaigns`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

import grpc

from caligo import rpc, wire
from caligo.dataset import GROUPS
from caligo.errors import InvalidArgument, Unimplemented
from caligo.seeds import Phase
from caligo.spec import CampaignSpec, from_proto
from caligo.v1 import campaign_pb2 as pb
from caligo.v1 import campaign_pb2_grpc
from caligo_orchestrator.manager import DEFAULT_PRIORITY, Campaigns
from caligo_orchestrator.settings import OrchestratorSettings

SERVICE: Final = pb.DESCRIPTOR.services_by_name["CampaignService"].full_name
_DOWNLOAD_BYTES: Final = 512 * 1024
_MAX_PAGE: Final = 1000
_DEFAULT_PAGE: Final = 50
_MAX_REQUEST_ID: Final = 64
_MAX_PRIORITY: Final = 1000


class CampaignServicer(campaign_pb2_grpc.CampaignServiceServicer):
    """`caligo.v1.CampaignService`; see the contract for what each method does."""

    def __init__(self, campaigns: Campaigns) -> None:
        self._campaigns = campaigns

    def CreateCampaign(
        self, request: pb.CreateCampaignRequest, context: grpc.ServicerContext
    ) -> pb.CreateCampaignResponse:
        spec = from_proto(request.spec, CampaignSpec, "spec")
        if len(request.request_id) > _MAX_REQUEST_ID:
            raise InvalidArgument("request_id", f"at most {_MAX_REQUEST_ID} characters")
        if request.priority > _MAX_PRIORITY:
            raise InvalidArgument("priority", f"1 to {_MAX_PRIORITY}")
        if request.validate_only:
            self._campaigns.check(spec)
            return pb.CreateCampaignResponse(campaign=pb.Campaign(spec=request.spec))
        campaign = self._campaigns.create(spec, request.request_id, request.priority or DEFAULT_PRIORITY)
        return pb.CreateCampaignResponse(campaign=campaign)

    def GetCampaign(self, request: pb.GetCampaignRequest, context: grpc.ServicerContext) -> pb.GetCampaignResponse:
        return pb.GetCampaignResponse(campaign=self._campaigns.get(request.name))

    def ListCampaigns(
        self, request: pb.ListCampaignsRequest, context: grpc.ServicerContext
    ) -> pb.ListCampaignsResponse:
        if not 0 <= request.page_size <= _MAX_PAGE:
            raise InvalidArgument("page_size", f"0 to {_MAX_PAGE}")
        campaigns = self._campaigns.list(_parse_filter(request.filter))
        if request.page_token:
            last = _parse_page_token(request.page_token)
            campaigns = [campaign for campaign in campaigns if _page_position(campaign) > last]
        page = campaigns[: request.page_size or _DEFAULT_PAGE]
        more = len(campaigns) > len(page)
        token = "{}.{}".format(*_page_position(page[-1])) if more else ""
        return pb.ListCampaignsResponse(campaigns=page, next_page_token=token)

    def UpdateCampaign(
        self, request: pb.UpdateCampaignRequest, context: grpc.ServicerContext
    ) -> pb.UpdateCampaignResponse:
        raise Unimplemented("a campaign's budget and priority cannot be changed in this release")

    def DeleteCampaign(
        self, request: pb.DeleteCampaignRequest, context: grpc.ServicerContext
    ) -> pb.DeleteCampaignResponse:
        self._campaigns.delete(request.name)
        return pb.DeleteCampaignResponse()

    def PauseCampaign(
        self, request: pb.PauseCampaignRequest, context: grpc.ServicerContext
    ) -> pb.PauseCampaignResponse:
        return pb.PauseCampaignResponse(campaign=self._campaigns.pause(request.name))

    def ResumeCampaign(
        self, request: pb.ResumeCampaignRequest, context: grpc.ServicerContext
    ) -> pb.ResumeCampaignResponse:
        return pb.ResumeCampaignResponse(campaign=self._campaigns.resume(request.name))

    def CancelCampaign(
        self, request: pb.CancelCampaignRequest, context: grpc.ServicerContext
    ) -> pb.CancelCampaignResponse:
        return pb.CancelCampaignResponse(campaign=self._campaigns.cancel(request.name))

    def WatchCampaign(
        self, request: pb.WatchCampaignRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchCampaignResponse]:
        if request.after_sequence < 0:
            raise InvalidArgument("after_sequence", "must not be negative")
        yield from self._campaigns.watch(request.name, request.after_sequence, context.is_active)

    def StreamResults(
        self, request: pb.StreamResultsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.StreamResultsResponse]:
        if request.phase not in (int(phase) for phase in GROUPS):
            raise InvalidArgument("phase", "PHASE_LHS or PHASE_ACTIVE")
        if request.start_row < 0:
            raise InvalidArgument("start_row", "must not be negative")
        phase = Phase(request.phase)
        for rows in self._campaigns.rows(request.name, phase, request.start_row, request.follow, context.is_active):
            yield pb.StreamResultsResponse(rows=wire.encode_rows(rows), next_row=int(rows["index"][-1]) + 1)

    def DownloadDataset(
        self, request: pb.DownloadDatasetRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DownloadDatasetResponse]:
        with self._campaigns.file(request.name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            total = file.tell()
            if not 0 <= request.offset <= total:
                raise InvalidArgument("offset", f"0 to {total}")
            offset = file.seek(request.offset)
            while data := file.read(_DOWNLOAD_BYTES):
                yield pb.DownloadDatasetResponse(offset=offset, data=data, total_bytes=total)
                offset += len(data)
            yield pb.DownloadDatasetResponse(offset=offset, total_bytes=total, sha256=digest)

    def PredictCampaign(
        self, request: pb.PredictCampaignRequest, context: grpc.ServicerContext
    ) -> pb.PredictCampaignResponse:
        prediction = self._campaigns.predict(request.name, wire.decode_inputs(request.inputs))
        return pb.PredictCampaignResponse(prediction=wire.encode(prediction, wire.PREDICTION))


def _page_position(campaign: pb.Campaign) -> tuple[int, str]:
    """Where a campaign stands in the list, newest first; the next page goes on after it whatever has changed."""
    return -campaign.create_time.ToMicroseconds(), campaign.name


def _parse_page_token(token: str) -> tuple[int, str]:
    position, _, name = token.partition(".")
    try:
        return int(position), name
    except ValueError:
        raise InvalidArgument("page_token", "must come from an earlier answer") from None


def _parse_filter(text: str) -> int | None:
    if not text:
        return None
    key, _, value = text.partition("=")
    names = {name.removeprefix("CAMPAIGN_STATE_"): number for name, number in pb.CampaignState.items() if number}
    if key.strip() != "state" or value.strip() not in names:
        raise InvalidArgument("filter", f"state=S with S one of {', '.join(names)}")
    return names[value.strip()]


def serve(settings: OrchestratorSettings) -> None:
    """Run the orchestrator until it is told to stop."""
    campaigns = Campaigns(settings)
    service = rpc.Service(SERVICE, campaign_pb2_grpc.add_CampaignServiceServicer_to_server, CampaignServicer(campaigns))
    try:
        rpc.run(settings, [service], on_start=campaigns.start, on_stop=campaigns.stop)
    finally:
        campaigns.close()
