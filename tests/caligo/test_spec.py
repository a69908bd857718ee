"""The spec between YAML, Python and the wire."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from caligo.errors import InvalidArgument
from caligo.space import PARAMETERS, PRESETS
from caligo.spec import CampaignSpec, SpaceSpec, from_proto, to_proto, validate
from caligo.v1 import campaign_pb2, types_pb2


def bounds() -> st.SearchStrategy[dict]:
    def one(p) -> st.SearchStrategy:  # type: ignore[no-untyped-def]
        return st.lists(st.floats(p.lowest, p.highest), min_size=2, max_size=2).map(sorted)

    return st.fixed_dictionaries({}, optional={p.symbol: one(p) for p in PARAMETERS})


SPECS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.from_regex(r"[a-z0-9](-?[a-z0-9]){0,20}", fullmatch=True),
        "seed": st.integers(0, 2**63 - 1),
        "space": st.fixed_dictionaries({"preset": st.sampled_from(sorted(PRESETS)), "bounds": bounds()}),
        "physics": st.fixed_dictionaries({"epsilon": st.floats(1e-30, 0.09)}),
        "guardrail": st.fixed_dictionaries({"enabled": st.booleans(), "audit_fraction": st.floats(0, 1)}),
        "active": st.fixed_dictionaries({"lookahead": st.integers(0, 8), "skip": st.booleans()}),
    },
)


@given(SPECS)
def test_a_spec_survives_the_wire_unchanged(values: dict) -> None:
    spec = validate(CampaignSpec, values)
    message = campaign_pb2.CampaignSpec.FromString(to_proto(spec, campaign_pb2.CampaignSpec).SerializeToString())
    assert from_proto(message, CampaignSpec) == spec
    assert CampaignSpec.model_validate_json(spec.model_dump_json()) == spec


def test_fields_that_are_not_set_take_their_defaults() -> None:
    assert from_proto(campaign_pb2.CampaignSpec(), CampaignSpec) == CampaignSpec()
    message = campaign_pb2.CampaignSpec()
    message.active.lookahead = 0  # set, to what is not the default
    assert from_proto(message, CampaignSpec).active.lookahead == 0


def test_own_bounds_replace_the_presets() -> None:
    space = SpaceSpec(preset="qia2025", bounds={"F": [0.9, 0.92]}, blind_fraction=0.25).resolve()
    assert space.bounds == {**PRESETS["qia2025"], "F": (0.9, 0.92)}
    assert space.blind_fraction == 0.25


def test_errors_from_the_wire_carry_the_path_of_the_field() -> None:
    message = types_pb2.SpaceSpec(preset="moon", blind_fraction=2)
    with pytest.raises(InvalidArgument) as caught:
        from_proto(message, SpaceSpec, "spec.space")
    assert [v.field for v in caught.value.violations] == ["spec.space.preset", "spec.space.blind_fraction"]
    assert str(caught.value).count("\n") == 0


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(InvalidArgument) as caught:
        validate(CampaignSpec, {"nmae": 1, "active": {"samples": 0, "batch_size": 1000}})
    assert sorted(v.field for v in caught.value.violations) == ["active.batch_size", "active.samples", "nmae"]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"seed": True}, "seed"),
        ({"space": {"blind_fraction": True}}, "space.blind_fraction"),
        ({"guardrail": {"enabled": "yes"}}, "guardrail.enabled"),
        ({"guardrail": {"enabled": 1}}, "guardrail.enabled"),
    ],
)
def test_a_truth_value_is_no_number_and_no_number_a_truth_value(values: dict, field: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{field}: must be"):
        validate(CampaignSpec, values)


def test_a_number_may_come_as_text() -> None:
    """YAML reads 1e-9 as a text, the wire sends 64-bit integers as one."""
    spec = validate(CampaignSpec, {"seed": "7", "physics": {"epsilon": "1e-9"}, "guardrail": {"enabled": "false"}})
    assert (spec.seed, spec.physics.epsilon, spec.guardrail.enabled) == (7, 1e-9, False)


def fields(model: type[BaseModel], *path: str) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        yield (*path, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, *path, name)


@pytest.mark.parametrize("path", [*fields(CampaignSpec), ("space", "bounds", "F"), ("space", "bounds", "F", "low")])
def test_what_is_refused_is_told_in_our_own_words(path: tuple[str, ...]) -> None:
    numbers = (True, -1, 1.5, 10**30, 10**400, math.inf, math.nan)
    wrong = (None, *numbers, "?", "x" * 1000, b"x", [], [1], [1, 2, 3], {}, {"?": 1})
    refused = 0
    for value in wrong:
        values: Any = value
        for key in reversed(path):
            values = {key: values}
        try:
            validate(CampaignSpec, values)
        except InvalidArgument as error:
            refused += 1
            assert all(v.field.startswith(".".join(path[:2])) for v in error.violations), error
            assert not re.search("Input|should|valid|instance|is not allowed", str(error)), error
            assert "\n" not in str(error)
    assert refused > len(wrong) // 2
