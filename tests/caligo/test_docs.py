"""The documents name what exists."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from caligo_orchestrator.settings import OrchestratorSettings
from pydantic import Field

import caligo
from caligo.results import COUNTS, DESCRIPTIONS, METRICS, ProtocolOutcome, Reason
from caligo.space import COLUMN_SYMBOLS
from tools import tables

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("services/*/README.md"), ROOT / "tests/README.md"]
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_the_design_map_names_files_and_tests_that_exist() -> None:
    text = (ROOT / "docs" / "design-map.md").read_text()
    named = re.findall(r"`([ST]/[\w/.-]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 30
    for path, test in named:
        file = ROOT / path.replace("S/", "services/", 1).replace("T/", "tests/", 1)
        assert file.exists(), path
        assert not test or f"def {test}(" in file.read_text(), f"{path}::{test}"


@pytest.mark.parametrize("path", tables.FILES, ids=str)
def test_what_repeats_a_setting_is_what_the_models_say(path: Path) -> None:
    text = (ROOT / path).read_text()
    assert tables.FILES[path](text) == text, "run make tables"


def test_a_new_setting_reaches_everything_that_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings(OrchestratorSettings, section="orchestrator"):
        client_wishes: int = Field(7, ge=1, le=9)
        """Wishes of one client a day."""

    monkeypatch.setitem(tables.SETTINGS, "orchestrator", Settings)
    monkeypatch.setattr(tables, "OrchestratorSettings", Settings)
    made = {path.name: make((ROOT / path).read_text()) for path, make in tables.FILES.items()}
    assert "# Wishes of one client a day.\n#CALIGO_ORCHESTRATOR_CLIENT_WISHES=7\n" in made[".env"]
    assert "| `client_wishes` | 7 | Wishes of one client a day. |" in made["security.md"]
    schema = json.loads(made["values.schema.json"])["properties"]["orchestrator"]["properties"]["settings"]
    assert schema["properties"]["client_wishes"] == {"type": "integer", "minimum": 1, "maximum": 9}


def test_the_guide_says_of_a_key_what_is_allowed() -> None:
    text = (ROOT / "docs" / "guide.md").read_text()
    for row in (
        "| `physics.epsilon` | 1e-10 | above 0 to below 0.1 | Each of",
        "| `seed` | 1 | 0 to below 2^63 | Root",
        "| `surrogate.prior` | closed_form | closed_form, constant | What",
        "| `active.convergence.brier_target` | 0 | 0 to 0.25 | Expected",
        "| `lhs.skip` | false |  | Use",
    ):
        assert row in text


def test_the_guide_lists_every_outcome_and_reason() -> None:
    text = (ROOT / "docs" / "guide.md").read_text()
    for outcome in ProtocolOutcome:
        assert f"| {outcome.name.lower()} | {int(outcome)} |" in text
    for reason in Reason:
        if reason is not Reason.NONE:
            assert f"{reason.name.lower()} ({int(reason)})" in text


def test_the_guide_says_of_each_column_what_files_say() -> None:
    text = (ROOT / "docs" / "guide.md").read_text()
    for name, unit in (*METRICS, *COUNTS):
        assert f"| `{name}` | {unit} | {DESCRIPTIONS[name]} |" in text, name


def test_the_readme_names_every_parameter() -> None:
    text = (ROOT / "README.md").read_text()
    for symbol in COLUMN_SYMBOLS:
        assert f"`{symbol}`" in text, symbol


def test_every_folder_of_tests_is_told() -> None:
    told = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "tests" / "README.md").read_text(), re.MULTILINE))
    assert {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name[0] not in "._"} <= told


def test_every_distribution_has_the_version_and_the_licence() -> None:
    for project in [ROOT / "pyproject.toml", *ROOT.glob("services/*/pyproject.toml")]:
        assert tomllib.loads(project.read_text())["project"]["version"] == caligo.__version__, project
        assert (project.parent / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert f"## {caligo.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_citation_is_one() -> None:
    file = ROOT / "CITATION.cff"
    assert str(yaml.safe_load(file.read_text())["version"]) == caligo.__version__
    checked = [
        Path(sys.executable).parent / "check-jsonschema",
        "--builtin-schema",
        "vendor.citation-file-format",
        file,
    ]
    subprocess.run(checked, check=True, timeout=60)
