"""The service over a real gRPC server on a Unix socket."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from caligo_surrogate.device import Device
from caligo_surrogate.server import SERVICE_NAME, SurrogateServicer

from caligo import rpc, wire
from caligo.discrepancy import PROFILE_STEPS
from caligo.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from caligo.phases import Phase
from caligo.space import SYMBOLS
from caligo.v1 import surrogate_pb2 as pb
from caligo.v1 import surrogate_pb2_grpc, types_pb2

NAME = "campaigns/one"
NOTHING_KNOWN = pb.SurrogateSpec(prior="constant")
"""The cliff of these tests is none that the closed form knows."""


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    address = f"unix:{tmp_path_factory.mktemp('s')}/surrogate"
    register = surrogate_pb2_grpc.add_SurrogateServiceServicer_to_server
    server = rpc.Server(
        address, [rpc.Service(SERVICE_NAME, register, SurrogateServicer(Device("cpu"), memory_budget=2**30))]
    )
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
    call(stub.CreateModel, pb.CreateModelRequest(campaign=NAME, seed=7, surrogate=NOTHING_KNOWN))
    call(stub.Observe, batches(cliff.rows(cliff.design(150, seed=1))))
    return call(stub.FitModel, pb.FitModelRequest(campaign=NAME, holdout_fraction=0.2, folds=5))


def test_fit_streams_progress_and_then_the_summary(ready):
    *progress, last = ready
    assert [p.progress.step for p in progress] == list(range(1, len(progress) + 1))
    assert last.summary.rows == 150
    assert last.summary.steps == len(progress)
    assert last.summary.device == "cpu"
    assert last.summary.solver == "cholesky"
    assert last.summary.validation.rows == 30
    assert last.summary.validation.f1 > 0.8
    assert last.summary.cross_validation.rows == 150
    assert last.summary.cross_validation.f1 > 0.8


def test_model_is_described(stub, ready):
    model = call(stub.GetModel, pb.GetModelRequest(campaign=NAME))
    assert model.rows_held == 150
    assert model.fitted
    assert model.bytes_held > 0
    assert sum((model.health.detections, model.health.failures)) == 0
    assert model.noise > 0
    assert 0.3 < model.secure_fraction < 0.8
    assert model.secure_fraction_error > 0
    assert (wire.decode(model.length_scales, wire.INPUTS, 9) > 0).all()


def test_boundary_is_surveyed(stub, ready):
    survey = call(stub.GetBoundary, pb.GetBoundaryRequest(campaign=NAME))
    sides = wire.decode(survey.sides, wire.CODE, 4096)
    assert set(sides.tolist()) == {0, 1}
    assert sides.mean() == pytest.approx(
        call(stub.GetModel, pb.GetModelRequest(campaign=NAME)).secure_fraction, abs=0.03
    )
    assert 0 < survey.expected_brier < 0.25
    cheap = call(stub.GetBoundary, pb.GetBoundaryRequest(campaign=NAME, sides_only=True))
    assert cheap.sides == survey.sides
    assert not cheap.HasField("expected_brier")


def test_a_batch_whose_rows_have_no_index_is_refused(stub, ready):
    for batch in (-1, 2**62):
        with pytest.raises(InvalidArgument, match="batch"):
            call(stub.ProposeBatch, pb.ProposeBatchRequest(campaign=NAME, batch=batch, size=2))


def test_a_surrogate_that_started_from_nothing_explains_what_matters(stub, ready):
    answer = call(stub.ExplainModel, pb.ExplainModelRequest(campaign=NAME))
    assert [one.parameter for one in answer.relevance] == [*SYMBOLS, "strategy"]
    total = {one.parameter: one.total for one in answer.relevance}
    assert min(total["F"], total["N"], total["r"]) > 0.1 > 0.05 > max(total["e_det"], total["P_dark"])
    assert all(one.total_error >= 0 for one in answer.relevance)
    assert not answer.HasField("discrepancy")
    assert not answer.HasField("profiles")
    assert call(stub.ExplainModel, pb.ExplainModelRequest(campaign=NAME)) == answer


def test_a_surrogate_that_started_from_the_closed_form_explains_what_differs(stub, ready, cliff):
    other = "campaigns/theory"
    call(stub.CreateModel, pb.CreateModelRequest(campaign=other, seed=7))
    with pytest.raises(FailedPrecondition, match="not fitted"):
        call(stub.ExplainModel, pb.ExplainModelRequest(campaign=other))
    call(stub.Observe, batches(cliff.rows(cliff.design(150, seed=1)), campaign=other))
    call(stub.FitModel, pb.FitModelRequest(campaign=other))
    answer = call(stub.ExplainModel, pb.ExplainModelRequest(campaign=other))
    assert (answer.discrepancy.verdict, len(answer.discrepancy.point)) == ("differs", 9)  # no physics has this cliff
    assert 0 < answer.discrepancy.p_value < 0.01
    assert answer.discrepancy.bound > abs(answer.discrepancy.difference) > 0
    profiles = wire.decode(answer.profiles, wire.PROFILES, 9, PROFILE_STEPS, 3)
    assert profiles.dtype == np.float32
    call(stub.DeleteModel, pb.DeleteModelRequest(campaign=other))
    with pytest.raises(NotFound):
        call(stub.ExplainModel, pb.ExplainModelRequest(campaign=other))


def test_creating_again_is_answered_with_what_is_there(stub, ready):
    assert (
        call(stub.CreateModel, pb.CreateModelRequest(campaign=NAME, seed=7, surrogate=NOTHING_KNOWN)).rows_held == 150
    )
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

    state = call(stub.ExportModel, pb.ExportModelRequest(campaign=NAME))
    assert (proposal.tensors, proposal.metadata) == (state.tensors, state.metadata)
    index = 2 * 5 + np.arange(5, dtype=np.int64)
    screened = call(stub.ScreenRows, pb.ScreenRowsRequest(campaign=NAME, rows=wire.encode_design(index, rows)))
    probability = wire.decode(screened.failure_probability, wire.FAILURE, 5)
    skip = wire.decode(screened.skip, wire.CODE, 5)
    assert proposal.skip == screened.skip
    assert probability.dtype == np.float32
    assert ((probability >= 0) & (probability <= 1)).all()
    assert not skip[probability <= 0.99].any()
    assert set(skip) <= {0, 1, 2}

    predicted = call(stub.PredictRows, pb.PredictRowsRequest(campaign=NAME, inputs=inputs(rows)))
    mean, sd, key = wire.decode(predicted.prediction, wire.PREDICTION, 5, 3).T
    np.testing.assert_array_equal(wire.decode(proposal.posterior, wire.POSTERIOR, 5, 2), np.stack([mean, sd], axis=1))
    np.testing.assert_array_equal(key > 0.5, mean > 0)


def test_export_and_import_between_campaigns(stub, ready, cliff):
    other = "campaigns/two"
    call(stub.CreateModel, pb.CreateModelRequest(campaign=other, seed=7, surrogate=NOTHING_KNOWN))
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
    assert model.guardrail.mode == "closed_form"  # there is evidence without any row
    for method, request in (
        (stub.FitModel, pb.FitModelRequest(campaign="campaigns/empty")),
        (stub.ProposeBatch, pb.ProposeBatchRequest(campaign="campaigns/empty", size=2)),
        (stub.PredictRows, pb.PredictRowsRequest(campaign="campaigns/empty", inputs=inputs(cliff.design(1, 1)))),
        (stub.GetBoundary, pb.GetBoundaryRequest(campaign="campaigns/empty")),
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
        (stub.GetBoundary, pb.GetBoundaryRequest(campaign=unknown)),
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
        ("FitModel", pb.FitModelRequest(campaign=NAME, folds=101), "folds"),
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


# --- a fit beside other calls ---------------------------------------------------------------------------------------


def test_a_fit_leaves_the_model_alone_until_it_is_imported(stub, cliff):
    """While a fit is under way all else is answered from the state in force, and rows that come are not in the fit."""
    name, query = "campaigns/background", inputs(cliff.design(20, seed=3))
    call(
        stub.CreateModel,
        pb.CreateModelRequest(campaign=name, seed=7, surrogate=pb.SurrogateSpec(prior="constant", training_steps=40)),
    )
    call(stub.Observe, batches(cliff.rows(cliff.design(150, seed=1)), campaign=name))
    call(stub.FitModel, pb.FitModelRequest(campaign=name))
    rows = cliff.rows(cliff.design(40, seed=5), start=150)
    call(stub.Observe, batches(rows[:20], campaign=name))

    before = call(stub.ExportModel, pb.ExportModelRequest(campaign=name))
    predicted = call(stub.PredictRows, pb.PredictRowsRequest(campaign=name, inputs=query))
    fitting = stub.FitModel(pb.FitModelRequest(campaign=name, keep_current=True))
    assert next(fitting).HasField("progress")
    assert call(stub.PredictRows, pb.PredictRowsRequest(campaign=name, inputs=query)) == predicted
    assert call(stub.Observe, batches(rows[20:], campaign=name)).rows_held == 190
    *_, last = fitting
    assert last.summary.rows == 170
    assert 0.3 < last.summary.secure_fraction < 0.8
    assert call(stub.ExportModel, pb.ExportModelRequest(campaign=name)) == before

    fitted = {"tensors": last.summary.tensors, "metadata": last.summary.metadata}
    assert fitted["tensors"] != before.tensors
    call(stub.ImportModel, pb.ImportModelRequest(campaign=name, **fitted))
    after = call(stub.ExportModel, pb.ExportModelRequest(campaign=name))
    assert (after.tensors, after.metadata) == (last.summary.tensors, last.summary.metadata)

    # The same state again from rows and import alone, in a model that never had a fit.
    other = "campaigns/again"
    call(
        stub.CreateModel,
        pb.CreateModelRequest(campaign=other, seed=7, surrogate=pb.SurrogateSpec(prior="constant", training_steps=40)),
    )
    call(stub.Observe, batches(cliff.rows(cliff.design(150, seed=1)), campaign=other))
    call(stub.Observe, batches(rows, campaign=other))
    call(stub.ImportModel, pb.ImportModelRequest(campaign=other, **fitted))
    design = wire.encode_design(np.arange(40, dtype=np.int64), cliff.design(40, seed=8))
    for method, request in (
        (stub.PredictRows, pb.PredictRowsRequest(inputs=query)),
        (stub.ScreenRows, pb.ScreenRowsRequest(rows=design)),
        (stub.ProposeBatch, pb.ProposeBatchRequest(batch=4, size=2)),
    ):
        answers = []
        for campaign in (name, other):
            request.campaign = campaign
            answers.append(call(method, request))
        assert answers[0] == answers[1]
    for campaign in (name, other):
        call(stub.DeleteModel, pb.DeleteModelRequest(campaign=campaign))


def test_a_fit_of_a_model_that_is_gone(stub, cliff):
    """What was fitted without touching the model comes back all the same; there is nothing to put the other into."""
    name = "campaigns/gone"
    for keep_current in (True, False):
        call(
            stub.CreateModel,
            pb.CreateModelRequest(campaign=name, surrogate=pb.SurrogateSpec(prior="constant", training_steps=40)),
        )
        call(stub.Observe, batches(cliff.rows(cliff.design(60, seed=1)), campaign=name))
        fitting = stub.FitModel(pb.FitModelRequest(campaign=name, keep_current=keep_current))
        next(fitting)
        call(stub.DeleteModel, pb.DeleteModelRequest(campaign=name))
        if keep_current:
            *_, last = fitting
            assert last.summary.rows == 60
        else:
            with pytest.raises(NotFound), rpc.calling("surrogate"):
                list(fitting)


# --- guardrail ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(stub, cliff):
    """A model whose guardrail is active, with 300 rows of phase 1."""
    name = "campaigns/guarded"
    spec = pb.GuardrailSpec(threshold=0.9, max_false_skip_rate=0.1, audit_fraction=0.5)
    quick = pb.SurrogateSpec(prior="constant", training_steps=3)
    call(stub.CreateModel, pb.CreateModelRequest(campaign=name, seed=7, guardrail=spec, surrogate=quick))
    call(stub.Observe, batches(cliff.rows(cliff.design(300, seed=1)), campaign=name))
    call(stub.FitModel, pb.FitModelRequest(campaign=name))
    return name


def test_the_guardrail_says_how_far_it_can_be_trusted(stub, guarded):
    model = call(stub.GetModel, pb.GetModelRequest(campaign=guarded))
    assert model.guardrail_active and model.guardrail.active
    assert model.guardrail.mode == "as_specified"
    assert model.guardrail.threshold == np.float32(0.9)
    assert model.guardrail.evidence > 50
    assert 0 < model.guardrail.false_skip_bound <= 0.1
    assert (model.guardrail.audits, model.guardrail.false_audits) == (0, 0)


def test_audits_are_told_from_skips_and_learned_of_at_the_next_fit(stub, guarded, cliff):
    design = cliff.design(300, seed=4)
    index = np.arange(300, dtype=np.int64)
    screened = call(stub.ScreenRows, pb.ScreenRowsRequest(campaign=guarded, rows=wire.encode_design(index, design)))
    probability = wire.decode(screened.failure_probability, wire.FAILURE, 300)
    verdict = wire.decode(screened.skip, wire.CODE, 300)
    np.testing.assert_array_equal(verdict > 0, probability > np.float32(0.9))
    assert 0.3 < (verdict[verdict > 0] == 2).mean() < 0.7

    rows = cliff.rows(design)
    audited = verdict == 2
    request = pb.ObserveRequest(
        campaign=guarded,
        phase=wire.encode_phase(Phase.ACTIVE),
        rows=wire.encode_rows(rows[audited]),
        audited=wire.encode(np.ones(audited.sum(), dtype=np.uint8), wire.CODE),
    )
    call(stub.Observe, iter([request]))
    again = call(stub.ScreenRows, pb.ScreenRowsRequest(campaign=guarded, rows=wire.encode_design(index, design)))
    assert again == screened  # it learns at a fit and not before
    call(stub.FitModel, pb.FitModelRequest(campaign=guarded))
    state = call(stub.GetModel, pb.GetModelRequest(campaign=guarded)).guardrail
    assert 0.9 * audited.sum() <= state.audits <= audited.sum()
    assert state.false_audits <= (rows["outcome"][audited] == 1).sum()

    request.audited.shape[0] = 1
    with pytest.raises(InvalidArgument, match="audited"):
        call(stub.Observe, iter([request]))


# --- memory ---------------------------------------------------------------------------------------------------------


def test_models_share_a_memory_budget(stub, ready, cliff):
    """The least recently used one gives up what can be made again, and is forgotten where that is not enough."""
    rows = cliff.rows(cliff.design(150, seed=1))
    state = call(stub.ExportModel, pb.ExportModelRequest(campaign=NAME))
    query = pb.PredictRowsRequest(inputs=inputs(cliff.design(10, seed=2)))
    names = [f"campaigns/{letter}" for letter in "abc"]

    def make(servicer: SurrogateServicer, name: str) -> None:
        servicer.CreateModel(pb.CreateModelRequest(campaign=name, seed=7, surrogate=NOTHING_KNOWN), None)
        servicer.Observe(batches(rows, campaign=name), None)
        servicer.ImportModel(pb.ImportModelRequest(campaign=name, tensors=state.tensors, metadata=state.metadata), None)
        assert predict(servicer, name) == expected

    def predict(servicer: SurrogateServicer, name: str) -> pb.PredictRowsResponse:
        query.campaign = name
        return servicer.PredictRows(query, None)

    def held(servicer: SurrogateServicer) -> list[int]:
        return [model.landscape.bytes_held() for model in servicer._models.values()]

    expected = call(stub.PredictRows, pb.PredictRowsRequest(campaign=NAME, inputs=query.inputs))
    roomy = SurrogateServicer(Device("cpu"), memory_budget=2**30)
    for name in names:
        make(roomy, name)
    whole, bare = held(roomy)[0], rows.nbytes
    assert held(roomy) == [whole] * 3
    assert whole > bare + 4 * 150**2  # at least a factor

    tight = SurrogateServicer(Device("cpu"), memory_budget=whole + 2 * bare)
    for name in names:
        make(tight, name)
    for name in names:
        assert predict(tight, name) == expected  # to the last bit, though it has been given up in between
        assert sorted(held(tight)) == [bare, bare, whole]

    least = SurrogateServicer(Device("cpu"), memory_budget=whole + bare)
    for name in names:
        make(least, name)
    with pytest.raises(NotFound):
        predict(least, names[0])
    assert [predict(least, name) for name in names[1:]] == [expected] * 2

    alone = SurrogateServicer(Device("cpu"), memory_budget=1)
    make(alone, names[0])
    assert predict(alone, names[0]) == expected  # the one in use always stays
    make(alone, names[1])
    with pytest.raises(NotFound):
        predict(alone, names[0])
