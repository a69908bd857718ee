"""An orchestrator that keeps the contract and runs nothing, over a real gRPC server on a Unix socket."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from caligo import rpc, wire
from caligo.client import CampaignClient
from caligo.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented, Unreachable
from caligo.results import ROW_DTYPE, ResultRows
from caligo.spec import CampaignSpec, from_proto
from caligo.v1 import campaign_pb2 as pb
from caligo.v1 import campaign_pb2_grpc

FINAL = (pb.CAMPAIGN_STATE_SUCCEEDED, pb.CAMPAIGN_STATE_FAILED, pb.CAMPAIGN_STATE_CANCELLED)


class FakeOrchestrator(campaign_pb2_grpc.CampaignServiceServicer):
    """Campaigns in memory. `breaks` makes that many streams end after two messages each, in `break_code`."""

    def __init__(self) -> None:
        self.campaigns: dict[str, pb.Campaign] = {}
        self.requests: dict[str, str] = {}
        self.events: list[pb.WatchCampaignResponse] = []
        self.rows: ResultRows = np.zeros(0, dtype=ROW_DTYPE)
        self.file = b""
        self.wrong_checksum = False
        self.breaks = 0
        self.break_code = grpc.StatusCode.UNAVAILABLE
        self.opened: list[int] = []
        self.surrogate_is_gone = False
        self.predictions = 0
        self.key: Callable[[np.ndarray], np.ndarray] = lambda inputs: np.full(len(inputs), 0.5)
        """What it foretells of a key."""
        self.updates: list[pb.UpdateCampaignRequest] = []
        self.filters: list[str] = []
        self.arrived = threading.Condition()

    # --- what a test arranges ---

    def add(self, id: str, state: pb.CampaignState = pb.CAMPAIGN_STATE_RUNNING) -> pb.Campaign:
        campaign = pb.Campaign(name=f"campaigns/{id}", state=state, priority=100)
        campaign.spec.name = id
        campaign.create_time.GetCurrentTime()
        self.campaigns[campaign.name] = campaign
        return campaign

    def finish(self, campaign: pb.Campaign, state: pb.CampaignState) -> None:
        campaign.state = state
        self.emit(changed=campaign)

    def emit(self, **event: object) -> None:
        with self.arrived:
            message = pb.WatchCampaignResponse(sequence=len(self.events) + 1, **event)  # type: ignore[arg-type]
            message.time.GetCurrentTime()
            self.events.append(message)
            self.arrived.notify_all()

    # --- the contract ---

    def CreateCampaign(self, request: pb.CreateCampaignRequest, context: grpc.ServicerContext) -> object:
        from_proto(request.spec, CampaignSpec, "spec")
        if request.validate_only:
            return pb.CreateCampaignResponse(campaign=pb.Campaign(spec=request.spec))
        id = self.requests.setdefault(request.request_id, f"c{len(self.campaigns)}")
        campaign = self.campaigns.get(f"campaigns/{id}") or self.add(id, pb.CAMPAIGN_STATE_QUEUED)
        campaign.spec.CopyFrom(request.spec)
        campaign.priority = request.priority
        return pb.CreateCampaignResponse(campaign=campaign)

    def GetCampaign(self, request: pb.GetCampaignRequest, context: grpc.ServicerContext) -> object:
        return pb.GetCampaignResponse(campaign=self._find(request.name))

    def ListCampaigns(self, request: pb.ListCampaignsRequest, context: grpc.ServicerContext) -> object:
        self.filters.append(request.filter)
        wanted = request.filter.removeprefix("state=") if request.filter.startswith("state=") else ""
        found = [c for c in self.campaigns.values() if not wanted or pb.CampaignState.Name(c.state).endswith(wanted)]
        first, size = int(request.page_token or 0), request.page_size or 2
        rest = str(first + size) if first + size < len(found) else ""
        return pb.ListCampaignsResponse(campaigns=found[first : first + size], next_page_token=rest)

    def UpdateCampaign(self, request: pb.UpdateCampaignRequest, context: grpc.ServicerContext) -> object:
        self.updates.append(request)
        campaign = self._find(request.campaign.name)
        request.update_mask.MergeMessage(request.campaign, campaign)
        return pb.UpdateCampaignResponse(campaign=campaign)

    def PauseCampaign(self, request: pb.PauseCampaignRequest, context: grpc.ServicerContext) -> object:
        return pb.PauseCampaignResponse(campaign=self._change(request.name, pb.CAMPAIGN_STATE_PAUSED))

    def ResumeCampaign(self, request: pb.ResumeCampaignRequest, context: grpc.ServicerContext) -> object:
        return pb.ResumeCampaignResponse(campaign=self._change(request.name, pb.CAMPAIGN_STATE_RUNNING))

    def CancelCampaign(self, request: pb.CancelCampaignRequest, context: grpc.ServicerContext) -> object:
        return pb.CancelCampaignResponse(campaign=self._change(request.name, pb.CAMPAIGN_STATE_CANCELLED))

    def DeleteCampaign(self, request: pb.DeleteCampaignRequest, context: grpc.ServicerContext) -> object:
        if self._find(request.name).state not in FINAL:
            raise FailedPrecondition(f"{request.name}: has not ended; cancel it first")
        del self.campaigns[request.name]
        return pb.DeleteCampaignResponse()

    def WatchCampaign(self, request: pb.WatchCampaignRequest, context: grpc.ServicerContext) -> Iterator[object]:
        self._find(request.name)
        return self._breaking(context, self._live(request.after_sequence, context), request.after_sequence)

    def StreamResults(self, request: pb.StreamResultsRequest, context: grpc.ServicerContext) -> Iterator[object]:
        self._find(request.name)
        batches = (
            pb.StreamResultsResponse(rows=wire.encode_rows(self.rows[i : i + 5]), next_row=i + 5)
            for i in range(request.start_row, len(self.rows), 5)
        )
        return self._breaking(context, batches, request.start_row)

    def DownloadDataset(self, request: pb.DownloadDatasetRequest, context: grpc.ServicerContext) -> Iterator[object]:
        self._find(request.name)
        total, digest = len(self.file), hashlib.sha256(self.file).digest()
        if request.offset > total:
            raise InvalidArgument("offset", f"0 to {total}")
        end = request.offset + request.length if request.length else total

        def messages() -> Iterator[pb.DownloadDatasetResponse]:
            for i in range(request.offset, end, 1000):
                yield pb.DownloadDatasetResponse(offset=i, data=self.file[i : min(i + 1000, end)], total_bytes=total)
            sent = bytes(32) if self.wrong_checksum else digest
            yield pb.DownloadDatasetResponse(offset=end, total_bytes=total, sha256=sent)

        return self._breaking(context, messages(), request.offset)

    def PredictCampaign(self, request: pb.PredictCampaignRequest, context: grpc.ServicerContext) -> object:
        self.predictions += 1
        if self.surrogate_is_gone:
            raise Unreachable("10.0.0.7:50053: nobody answers")
        if self._find(request.name).state != pb.CAMPAIGN_STATE_SUCCEEDED:
            raise Unimplemented("predictions need an ended campaign")
        inputs = wire.decode_inputs(request.inputs)
        answer = np.stack([inputs[:, 3], np.full(len(inputs), 0.25), self.key(inputs)], axis=1)
        return pb.PredictCampaignResponse(prediction=wire.encode(answer.astype(np.float32), wire.PREDICTION))

    # --- helpers ---

    def _find(self, name: str) -> pb.Campaign:
        if name not in self.campaigns:
            raise NotFound(f"{name}: no such campaign")
        return self.campaigns[name]

    def _change(self, name: str, state: pb.CampaignState) -> pb.Campaign:
        campaign = self._find(name)
        if campaign.state in FINAL:
            raise FailedPrecondition(f"{name}: has ended")
        self.finish(campaign, state)
        return campaign

    def _live(self, after: int, context: grpc.ServicerContext) -> Iterator[pb.WatchCampaignResponse]:
        last = after
        while context.is_active():
            with self.arrived:
                if len(self.events) <= last:
                    self.arrived.wait(0.05)
                fresh = self.events[last:]
            for event in fresh:
                last = event.sequence
                yield event
                if event.changed.state in FINAL:
                    return
            if not fresh:
                yield pb.WatchCampaignResponse(sequence=last, heartbeat=pb.Heartbeat())

    def _breaking(self, context: grpc.ServicerContext, messages: Iterator[object], at: int) -> Iterator[object]:
        self.opened.append(at)
        for number, message in enumerate(messages):
            if self.breaks and number == 2:
                self.breaks -= 1
                context.abort(self.break_code, "gone")
            yield message


Serve = Callable[[FakeOrchestrator], rpc.Server]


@pytest.fixture
def orchestrator() -> FakeOrchestrator:
    return FakeOrchestrator()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a server for a servicer, again and again at the same address."""
    servers = []

    def start(servicer: FakeOrchestrator) -> rpc.Server:
        (tmp_path / "socket").unlink(missing_ok=True)
        name = pb.DESCRIPTOR.services_by_name["CampaignService"].full_name
        register = campaign_pb2_grpc.add_CampaignServiceServicer_to_server
        server = rpc.Server(f"unix:{tmp_path}/socket", [rpc.Service(name, register, servicer)])
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop(0)


@pytest.fixture
def client(serve: Serve, orchestrator: FakeOrchestrator) -> Iterator[CampaignClient]:
    address = serve(orchestrator).address
    with CampaignClient(address, patience_seconds=5) as made:
        yield made
