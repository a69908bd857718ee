"""Python and the contract say the same: enums, spec fields, columns, errors."""

from __future__ import annotations

import enum
import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor
from pydantic import BaseModel

from caligo import spec
from caligo.client import CampaignState
from caligo.errors import BY_STATUS, CaligoError
from caligo.phases import Phase
from caligo.results import COUNT_NAMES, METRIC_NAMES, ProtocolOutcome, ProtocolResult
from caligo.space import COLUMNS, SYMBOLS
from caligo.v1 import campaign_pb2, surrogate_pb2, types_pb2

PROTOS = Path(__file__).parents[2] / "protos" / "caligo" / "v1"


@pytest.mark.parametrize(
    ("python", "contract", "prefix"),
    [
        (ProtocolOutcome, types_pb2.Outcome, "OUTCOME_"),
        (Phase, types_pb2.Phase, "PHASE_"),
        (CampaignState, campaign_pb2.CampaignState, "CAMPAIGN_STATE_"),
    ],
)
def test_enums_agree(python: type[enum.IntEnum], contract: object, prefix: str) -> None:
    ours = {member.name: int(member) for member in python if member}
    theirs = {name.removeprefix(prefix): number for name, number in contract.items() if number}  # type: ignore[attr-defined]
    assert ours == theirs


SPECS = [
    (spec.CampaignSpec, campaign_pb2.CampaignSpec),
    (spec.LhsSpec, campaign_pb2.LhsSpec),
    (spec.TrainingSpec, campaign_pb2.TrainingSpec),
    (spec.ConvergenceSpec, campaign_pb2.ConvergenceSpec),
    (spec.ActiveSpec, campaign_pb2.ActiveSpec),
    (spec.SurrogateSpec, surrogate_pb2.SurrogateSpec),
    (spec.GuardrailSpec, surrogate_pb2.GuardrailSpec),
    (spec.SpaceSpec, types_pb2.SpaceSpec),
    (spec.PhysicsSpec, types_pb2.PhysicsSpec),
    (spec.DeviceSpec, types_pb2.DeviceSpec),
    (spec.FibreSpec, types_pb2.FibreSpec),
    (spec.PairsSpec, types_pb2.PairsSpec),
    (spec.DetectorsSpec, types_pb2.DetectorsSpec),
    (spec.AlignmentSpec, types_pb2.AlignmentSpec),
    (spec.ProtocolSpec, types_pb2.ProtocolSpec),
    (spec.Bounds, types_pb2.Bounds),
]


@pytest.mark.parametrize(("model", "message"), SPECS)
def test_spec_fields_agree_in_name(model: type[BaseModel], message: type) -> None:
    fields = message.DESCRIPTOR.fields  # type: ignore[attr-defined]
    today = [field.name for field in fields if not field.GetOptions().deprecated]
    assert sorted(today) == sorted(model.model_fields)
    for field in fields:
        # what is not set takes the default of caligo.spec, so "not set" must be visible
        assert field.has_presence or field.type == FieldDescriptor.TYPE_MESSAGE


def test_every_spec_model_is_compared() -> None:
    models = {value for value in vars(spec).values() if isinstance(value, type) and issubclass(value, spec._Model)}
    assert models - {spec._Model} == {model for model, _ in SPECS}


def test_columns_are_those_that_the_contract_lists() -> None:
    text = " ".join((PROTOS / "types.proto").read_text(encoding="utf-8").replace("//", " ").split())
    assert f'"caligo.metrics/1": {", ".join(METRIC_NAMES)}.' in text
    assert f'"caligo.counts/2": {", ".join(COUNT_NAMES)}.' in text
    assert f"({', '.join(SYMBOLS)})" in text
    listed = re.search(r'"caligo\.inputs/1": (r, .*?), strategy \(', text)
    assert listed is not None
    columns = [name.replace("/", "_").replace("log10 ", "log10_") for name in listed[1].split(", ")]
    assert (*columns, "strategy") == COLUMNS


def test_a_result_has_every_column() -> None:
    result = ProtocolResult(ProtocolOutcome.SUCCESS)
    assert all(hasattr(result, name) for name in (*METRIC_NAMES, *COUNT_NAMES))


def test_each_status_becomes_one_error() -> None:
    def kinds(kind: type[CaligoError]) -> set[type[CaligoError]]:
        return {kind}.union(*(kinds(child) for child in kind.__subclasses__()))

    known = [k for k in kinds(CaligoError) if k.__module__ == "caligo.errors" and k is not CaligoError]
    assert len({k.status for k in known}) == len(known)
    assert set(BY_STATUS.values()) == {k for k in known if k.status != "INVALID_ARGUMENT"}
    assert {k.exit_code for k in known} == {2, 3, 4, 5, 6}
