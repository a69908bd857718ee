"""The service over a real gRPC server on a Unix socket."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from caligo_surrogate.device import Device
from caligo_surrogate.server import SERVICE_NAME, SurrogateServicer

from caligo import rpc, wire
from caligo.errors import AlreadyExists, CaligoError, FailedPrecondition, InvalidArgument, NotFound
from caligo.seeds import Phase
from caligo.v1 import surrogate_pb2 as pb
from caligo.v1 import surrogate_pb2_grpc, types_pb2

NAME = "campaigns/one"


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    address = f"unix:{tmp_path_factory.mktemp('s')}/surrogate"
    register = surrogate_pb2_grpc.add_SurrogateServiceServicer_to_server
    server = rpc.Server(address, [rpc.Service(SERVICE_NAME, register, SurrogateServicer(Device("cpu"), max_models=3))])
    server.start()
    with rpc.channel(address) as channel:
        rpc.wait_ready(channel, address, 10)
        yield surrogate_pb2_grpc.SurrogateServiceStub(channel)
    server.stop(1)


def call(method, request):
    """A call that raises this system's own errors."""
    with rpc.calling("surrogate"):
        result = method(request)
        return list(result) if isinstance(result, grpc.RpcContext) and hasattr(result, "__next__") else result


def inputs(rows):
    return wire.encode(rows, wire.INPUTS)


def batches(rows, campaign=NAME, size=64):
    for start in range(0, len(rows), size):
        yield pb.ObserveRequest(
            campaign=campaign if start == 0 else "",
            phase=wire.encode_phase(Phase.LHS),
            rows=wire.encode_rows(rows[start : start + size]),
        )


@pytest.fixture(scope="module")
def ready(stub, cliff):
    """A fitted model under `NAME`, with what its fit said."""
    call(stub.CreateModel, pb.CreateModelRequest(campaign=NAME, seed=7))
    call(stub.Observe, batches(cliff.rows(cliff.design(150, seed=1))))
    return call(stub.FitModel, pb.FitModelRequest(campaign=NAME, holdout_fraction=0.2))


def test_fit_streams_progress_and_then_the_summary(ready):
    *progress, last = ready
    assert [p.progress.step for p in progress] == list(range(1, len(progress) + 1))
    assert last.summary.rows == 150
    assert last.summary.steps == len(progress)
    assert last.summary.device == "cpu"
    assert last.summary.solver == "cholesky"
    assert last.summary.validation.rows == 30
    assert last.summary.validation.f1 > 0.8


def test_model_is_described(stub, ready):
    model = call(stub.GetModel, pb.GetModelRequest(campaign=NAME))
    assert model.rows_held == 150
    assert model.fitted
    assert model.guardrail_active
    assert model.noise > 0
    assert 0.3 < model.secure_fraction < 0.8
    assert model.secure_fraction_error > 0
    assert (wire.decode(model.length_scales, wire.INPUTS, 9) > 0).all()


def test_creating_again_is_answered_with_what_is_there(stub, ready):
    assert call(stub.CreateModel, pb.CreateModelRequest(campaign=NAME, seed=7)).rows_held == 150
    with pytest.raises(AlreadyExists):
        call(stub.CreateModel, pb.CreateModelRequest(campaign=NAME, seed=8))


def test_observing_again_is_harmless(stub, ready, cliff):
    assert call(stub.Observe, batches(cliff.rows(cliff.design(150, seed=1)))).rows_held == 150


def test_propose_screen_predict(stub, ready, cliff, space):
    pending = cliff.design(4, seed=9)
    request = pb.ProposeBatchRequest(campaign=NAME, batch=2, size=5, pending=inputs(pending))
    proposal = call(stub.ProposeBatch, request)
    rows = wire.decode_inputs(proposal.inputs)
    assert rows.shape == (5, 9)
    assert call(stub.ProposeBatch, request) == proposal

    index = np.arange(5, dtype=np.int64)
    screened = call(stub.ScreenRows, pb.ScreenRowsRequest(campaign=NAME, rows=wire.encode_design(index, rows)))
    probability = wire.decode(screened.failure_probability, wire.FAILURE, 5)
    skip = wire.decode(screened.skip, wire.CODE, 5)
    assert probability.dtype == np.float32
    assert ((probability >= 0) & (probability <= 1)).all()
    assert not skip[probability <= 0.99].any()

    predicted = call(stub.PredictRows, pb.PredictRowsRequest(campaign=NAME, inputs=inputs(rows)))
    mean, sd, key = wire.decode(predicted.prediction, wire.PREDICTION, 5, 3).T
    np.testing.assert_array_equal(wire.decode(proposal.posterior, wire.POSTERIOR, 5, 2), np.stack([mean, sd], axis=1))
    np.testing.assert_array_equal(key > 0.5, mean > 0)


def test_export_and_import_between_campaigns(stub, ready, cliff):
    other = "campaigns/two"
    call(stub.CreateModel, pb.CreateModelRequest(campaign=other, seed=7))
    call(stub.Observe, batches(cliff.rows(cliff.design(150, seed=1)), campaign=other))
    exported = call(stub.ExportModel, pb.ExportModelRequest(campaign=NAME))
    call(
        stub.ImportModel,
        pb.ImportModelRequest(campaign=other, tensors=exported.tensors, metadata=exported.metadata),
    )
    query = inputs(cliff.design(10, seed=3))
    one, two = (call(stub.PredictRows, pb.PredictRowsRequest(campaign=name, inputs=query)) for name in (NAME, other))
    assert one == two
    call(stub.DeleteModel, pb.DeleteModelRequest(campaign=other))
    with pytest.raises(NotFound):
        call(stub.GetModel, pb.GetModelRequest(campaign=other))


def test_before_a_fit(stub, cliff):
    call(stub.CreateModel, pb.CreateModelRequest(campaign="campaigns/empty"))
    model = call(stub.GetModel, pb.GetModelRequest(campaign="campaigns/empty"))
    assert not model.fitted
    assert model.rows_held == 0
    assert not model.guardrail_active
    for method, request in (
        (stub.FitModel, pb.FitModelRequest(campaign="campaigns/empty")),
        (stub.ProposeBatch, pb.ProposeBatchRequest(campaign="campaigns/empty", size=2)),
        (stub.PredictRows, pb.PredictRowsRequest(campaign="campaigns/empty", inputs=inputs(cliff.design(1, 1)))),
        (stub.ExportModel, pb.ExportModelRequest(campaign="campaigns/empty")),
    ):
        with pytest.raises(FailedPrecondition):
            call(method, request)
    call(stub.DeleteModel, pb.DeleteModelRequest(campaign="campaigns/empty"))


def test_unknown_campaign(stub, cliff):
    rows = cliff.design(1, seed=1)
    unknown = "campaigns/none"
    for method, request in (
        (stub.GetModel, pb.GetModelRequest(campaign=unknown)),
        (stub.DeleteModel, pb.DeleteModelRequest(campaign=unknown)),
        (stub.Observe, batches(cliff.rows(rows), campaign=unknown)),
        (stub.FitModel, pb.FitModelRequest(campaign=unknown)),
        (stub.ProposeBatch, pb.ProposeBatchRequest(campaign=unknown, size=1)),
        (stub.ScreenRows, pb.ScreenRowsRequest(campaign=unknown, rows=wire.encode_design(np.zeros(1, np.int64), rows))),
        (stub.PredictRows, pb.PredictRowsRequest(campaign=unknown, inputs=inputs(rows))),
        (stub.ExportModel, pb.ExportModelRequest(campaign=unknown)),
        (stub.ImportModel, pb.ImportModelRequest(campaign=unknown)),
    ):
        with pytest.raises(NotFound, match="no such model"):
            call(method, request)


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("CreateModel", pb.CreateModelRequest(campaign="one"), "campaign"),
        (
            "CreateModel",
            pb.CreateModelRequest(campaign=NAME, surrogate=pb.SurrogateSpec(solver="magic")),
            "surrogate.solver",
        ),
        ("CreateModel", pb.CreateModelRequest(campaign=NAME, space=types_pb2.SpaceSpec(preset="x")), "space.preset"),
        (
            "CreateModel",
            pb.CreateModelRequest(campaign=NAME, guardrail=pb.GuardrailSpec(threshold=2)),
            "guardrail.threshold",
        ),
        ("FitModel", pb.FitModelRequest(campaign=NAME, holdout_fraction=0.9), "holdout_fraction"),
        ("ProposeBatch", pb.ProposeBatchRequest(campaign=NAME), "size"),
        ("ProposeBatch", pb.ProposeBatchRequest(campaign=NAME, size=1, batch=-1), "batch"),
        (
            "ProposeBatch",
            pb.ProposeBatchRequest(
                campaign=NAME, size=1, pending=wire.encode(np.zeros((1, 8), np.float32), wire.INPUTS)
            ),
            "pending.shape",
        ),
        (
            "PredictRows",
            pb.PredictRowsRequest(campaign=NAME, inputs=wire.encode(np.full((1, 9), np.nan, np.float32), wire.INPUTS)),
            "inputs",
        ),
        ("ScreenRows", pb.ScreenRowsRequest(campaign=NAME), "rows.inputs.element_type"),
        ("ImportModel", pb.ImportModelRequest(campaign=NAME, metadata="?"), "metadata"),
    ],
)
def test_bad_requests_name_the_field(stub, ready, method, request_, field):
    with pytest.raises(InvalidArgument) as refused:
        call(getattr(stub, method), request_)
    assert refused.value.violations[0].field == field


def test_bad_observations(stub, ready, cliff):
    with pytest.raises(InvalidArgument, match="campaign"):
        call(stub.Observe, iter(()))
    row = wire.encode_rows(cliff.rows(cliff.design(1, seed=1)))
    with pytest.raises(InvalidArgument, match="phase"):
        call(stub.Observe, iter([pb.ObserveRequest(campaign=NAME, rows=row)]))
    row.outcome.shape[0] = 2
    with pytest.raises(InvalidArgument, match=r"rows\.outcome"):
        call(stub.Observe, iter([pb.ObserveRequest(campaign=NAME, phase=wire.encode_phase(Phase.LHS), rows=row)]))


def test_least_recently_used_model_is_forgotten():
    servicer = SurrogateServicer(Device("cpu"), max_models=2)

    def held(name: str) -> bool:
        try:
            servicer.GetModel(pb.GetModelRequest(campaign=name), None)
        except CaligoError:
            return False
        return True

    for name in ("campaigns/a", "campaigns/b"):
        servicer.CreateModel(pb.CreateModelRequest(campaign=name), None)
    assert held("campaigns/a")  # and with that used last
    servicer.CreateModel(pb.CreateModelRequest(campaign="campaigns/c"), None)
    assert not held("campaigns/b")
    assert held("campaigns/a")
    assert held("campaigns/c")
