"""Where a setting of the spec comes from: flag over environment over YAML over default."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml

import caligo
from caligo.cli import main, specs
from caligo.errors import InvalidArgument
from caligo.spec import Bounds, CampaignSpec

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text("seed: 10\nactive: {samples: 11, batch_size: 2}\nspace: {bounds: {F: [0.9, 0.95]}}\n")
    return path


def test_each_source_goes_before_the_next(file: Path) -> None:
    assert specs.load(Path("/dev/null"), environment={}).active.samples == CampaignSpec().active.samples
    assert specs.load(file, environment={}).active.samples == 11
    environment = {"CALIGO_SPEC__ACTIVE__SAMPLES": "12", "CALIGO_SPEC__SEED": "13"}
    from_environment = specs.load(file, environment=environment)
    assert (from_environment.active.samples, from_environment.seed) == (12, 13)
    from_flags = specs.load(file, ["active.samples=14", "active.samples=15", "seed=16"], 17, environment)
    assert (from_flags.active.samples, from_flags.seed) == (15, 17)
    assert from_flags.active.batch_size == 2


def test_values_are_yaml_and_reach_any_depth(file: Path) -> None:
    spec = specs.load(
        file,
        ["space.bounds.N=[1e4, 1.0e+6]", "guardrail.enabled=false", "space.bounds.e_det.low=0"],
        environment={"CALIGO_SPEC__SPACE__BOUNDS__E_DET__HIGH": "0.01", "CALIGO_SPEC__SPACE__BOUNDS__F": "[0.8, 1]"},
    )
    assert spec.space.bounds == {
        "F": Bounds(low=0.8, high=1), "N": Bounds(low=1e4, high=1e6), "e_det": Bounds(low=0, high=0.01),
    }  # fmt: skip
    assert spec.guardrail.enabled is False


@pytest.mark.parametrize(
    ("name", "has"),
    [
        ("CALIGO_SPEC__ACTIV__SAMPLES", "the spec has name, seed, space"),
        ("CALIGO_SPEC__SPACE__BOUNDS__Q", "space.bounds has r, nu, dt_ns"),
        ("CALIGO_SPEC__SEED__X", "seed has none below it"),
        ("CALIGO_SPEC__", "the spec has name"),
    ],
)
def test_an_unknown_variable_is_an_error(file: Path, name: str, has: str) -> None:
    with pytest.raises(InvalidArgument, match="no such setting") as caught:
        specs.load(file, environment={name: "1"})
    assert caught.value.violations[0].field == name
    assert has in str(caught.value)


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["caligo", *arguments])
    assert main() == 0
    return capsys.readouterr().out


def test_dry_run_shows_the_whole_spec(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALIGO_SPEC__LHS__SAMPLES", "99")
    arguments = ("run", str(file), "--dry-run", "--output", "nowhere")
    from_yaml = CampaignSpec.model_validate(yaml.safe_load(run(monkeypatch, capsys, *arguments)))
    from_json = CampaignSpec.model_validate_json(run(monkeypatch, capsys, *arguments, "--json"))
    assert from_yaml == from_json == specs.load(file)
    assert from_yaml.lhs.samples == 99
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("name", ["cliff.yaml", "quick.yaml"])
def test_examples_fit_the_schema(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = json.loads(run(monkeypatch, capsys, "schema"))
    specs.load(EXAMPLES / name, environment={})
    jsonschema.validate(yaml.safe_load((EXAMPLES / name).read_text()), schema)


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    first, *others, below = run(monkeypatch, capsys, "--version").splitlines()
    assert first.startswith(f"caligo {caligo.__version__} in {Path(caligo.__file__).parent}")
    services = ("orchestrator", "sampler", "simulator", "surrogate")
    assert {f"caligo-{name} {caligo.__version__}" for name in services} <= {line.partition(",")[0] for line in others}
    assert f"numpy {np.__version__}" in below.split(", ")
