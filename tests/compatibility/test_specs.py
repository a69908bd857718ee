"""A spec of any release can be read; only what this release carries out can be written."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import typing
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from caligo.errors import InvalidArgument
from caligo.spec import Bounds, CampaignSpec, from_proto, read_message, read_spec, to_proto, validate
from caligo.v1 import campaign_pb2

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(), below, max_size=3),
    max_leaves=8,
)


def keys(model: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    found = {}
    for name, field in model.model_fields.items():
        is_section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        found[name] = field.annotation if is_section else None
    return found


def like(model: type[BaseModel]) -> st.SearchStrategy:
    """Mappings with the keys of a section, some of them, that hold anything; and anything else."""
    sections = {name: JSON if below is None else like(below) for name, below in keys(model).items()}
    if model is CampaignSpec:
        sections["physics"] |= st.fixed_dictionaries({"bound": JSON})
    return st.fixed_dictionaries({}, optional=sections) | st.dictionaries(st.text(), JSON, max_size=3) | JSON


def check(model: BaseModel) -> None:
    """Every field has its type, whatever its value."""
    for name, field in type(model).model_fields.items():
        value, kind = getattr(model, name), field.annotation
        if isinstance(value, BaseModel):
            assert type(value) is kind
            check(value)
        elif isinstance(value, dict):
            assert all(isinstance(symbol, str) for symbol in value)
            for bounds in value.values():
                assert type(bounds) is Bounds
                check(bounds)
        else:
            allowed = {str} if typing.get_origin(kind) is typing.Literal else {kind, int} if kind is float else {kind}
            assert type(value) in allowed


@given(like(CampaignSpec).filter(lambda values: isinstance(values, dict)))
def test_whatever_is_in_it_a_mapping_reads_as_a_spec(values: dict) -> None:
    spec = read_spec(values)
    check(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_spec(spec.model_dump(mode="json")) == spec
        assert read_spec(json.loads(spec.model_dump_json())) == spec


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**63 - 1),
            "space": st.just({"bounds": {"N": [1e5, 1e6], "F": [0.9, 1]}}),
            "physics": st.fixed_dictionaries({"epsilon": st.floats(1e-30, 0.09)}),
            "guardrail": st.fixed_dictionaries({"enabled": st.booleans()}),
            "active": st.fixed_dictionaries({"skip": st.booleans(), "samples": st.integers(1, 1000).map(str)}),
        },
    )
)
def test_what_may_be_written_reads_as_it_was_written(values: dict) -> None:
    spec = validate(CampaignSpec, values)
    assert read_spec(spec.model_dump()) == read_spec(json.loads(spec.model_dump_json())) == spec
    assert read_message(to_proto(spec, campaign_pb2.CampaignSpec)) == spec


def test_choices_and_numbers_of_a_later_release_are_kept_and_its_keys_left_out() -> None:
    later = {
        "name": "Cliff of tomorrow",
        "physics": {"claim": "composable2031", "memory_model": "thermal", "epsilon": 0.5},
        "space": {"preset": "satellite", "bounds": {"N": [1, 1e15], "mu": {"low": 0.1, "high": 0.2}, "F": "any"}},
        "active": {"samples": 10**9, "batch_size": "eight", "budget_seconds": 60},
        "training": "none",
        "devices": {"detectors": 4},
    }
    spec = read_spec(later)
    assert (spec.name, spec.physics.claim, spec.physics.memory_model) == (
        "Cliff of tomorrow", "composable2031", "thermal",
    )  # fmt: skip
    assert (spec.physics.epsilon, spec.active.samples, spec.active.batch_size) == (0.5, 10**9, 8)
    assert {symbol: (b.low, b.high) for symbol, b in spec.space.bounds.items()} == {"N": (1, 1e15), "mu": (0.1, 0.2)}
    assert spec.training == CampaignSpec().training
    assert read_message(to_proto(spec, campaign_pb2.CampaignSpec)) == spec
    with pytest.raises(InvalidArgument, match=r"^space\.preset: .*satellite"):
        spec.space.resolve()
    with pytest.raises(InvalidArgument):
        validate(CampaignSpec, later)


@pytest.mark.parametrize("bound", ["lupo2023", "kww2012", "erven2014"])
def test_a_bound_that_is_stored_reads_as_the_rules_of_then(bound: str) -> None:
    spec = read_spec({"physics": {"bound": bound, "epsilon": 1e-9}, "protocol": {"test_fraction": 0.2}})
    assert (spec.physics.claim, spec.protocol.partition) == (f"release-0.1/{bound}", "bob")
    assert (spec.physics.epsilon, spec.protocol.test_fraction) == (1e-9, 0.2)
    assert read_spec({"physics": {"bound": bound}}).protocol.partition == "bob"
    assert read_spec({"physics": {"bound": bound, "claim": "individual"}}).physics.claim == "individual"
    with pytest.raises(InvalidArgument, match=r"physics\.claim"):
        validate(CampaignSpec, spec.model_dump())


def test_every_spec_of_release_0_1_is_read(assets: Path) -> None:
    with sqlite3.connect(f"file:{assets}/data/journal.sqlite3?mode=ro&immutable=1", uri=True) as journal:
        stored = dict(journal.execute("SELECT id, spec FROM campaigns"))
    journal.close()
    assert len(stored) == 7
    for id, text in stored.items():
        spec, was = read_spec(json.loads(text)), json.loads(text)
        assert spec.physics.claim == f"release-0.1/{was['physics'].pop('bound')}", id
        now = spec.model_dump()
        for section, values in was.items():
            for key, value in values.items() if isinstance(values, dict) else ():
                assert now[section][key] == value, (id, section, key)


def test_what_a_client_of_release_0_1_asks_for_is_asked_under_the_claim_of_that_name(assets: Path) -> None:
    request = campaign_pb2.CreateCampaignRequest.FromString((assets / "messages/create-request.bin").read_bytes())
    spec = from_proto(request.spec, CampaignSpec, "spec")
    assert (spec.physics.claim, spec.protocol.partition) == ("lupo2023", "alice")


def test_what_a_bound_now_means_is_said_on_standard_error(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("physics: {bound: lupo2023}\n")
    main = "import sys, caligo.cli; sys.exit(caligo.cli.main())"
    command = [sys.executable, "-c", main, "run", "mine.yaml", "--dry-run", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)["physics"]["claim"] == "lupo2023"
    assert "physics.bound: lupo2023 is read as physics.claim: lupo2023" in done.stderr
