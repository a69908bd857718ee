"""The documents name what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from caligo.results import COUNTS, DESCRIPTIONS, METRICS, ProtocolOutcome, Reason
from caligo.spec import CampaignSpec

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "services").glob("*/README.md")])


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


def test_the_guide_lists_every_setting_of_a_spec() -> None:
    text = (ROOT / "docs" / "guide.md").read_text()
    for name, field in CampaignSpec.model_fields.items():
        part = field.annotation
        for below in getattr(part, "model_fields", {"": None}):
            assert f"`{name}.{below}`" in text or f"`{name}`" in text, f"{name}.{below}"


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
