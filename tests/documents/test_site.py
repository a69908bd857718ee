"""The site as `make docs` builds it: whole, of this machine alone, and refused where something is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from caligo_orchestrator.settings import OrchestratorSettings

from caligo.results import METRIC_NAMES, ProtocolOutcome, Reason
from caligo.v1 import campaign_pb2

griffe = pytest.importorskip("griffe", reason="requirements-docs.txt are not installed")
reference = pytest.importorskip("tools.reference", reason="requirements-docs.txt are not installed")

pytestmark = pytest.mark.documents

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site"
BUILD = [sys.executable, "-m", "mkdocs", "build", "--strict"]


class Assets(HTMLParser):
    """What a browser fetches for a page by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        fetched = given.get("href") if tag == "link" and given.get("rel") != "canonical" else given.get("src")
        if fetched and tag != "a":
            self.found.append(fetched)


def test_a_reader_fetches_nothing_from_elsewhere() -> None:
    pages = sorted(SITE.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        assets = Assets()
        assets.feed(page.read_text())
        assert assets.found
        assert not [address for address in assets.found if re.match(r"(\w+:)?//", address)], page
    for sheet in SITE.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", sheet.read_text()), sheet


def test_the_reference_has_all_of_what_it_is_made_from() -> None:
    commands = reference.cli()
    for name in ("run", "threshold", "dataset export", "token create"):
        assert f"## `caligo {name}`" in commands
    codes = reference.codes()
    for code in [*ProtocolOutcome, *Reason]:
        assert f"| `{code.name.lower()}` |" in codes
    assert "| 3 | `Unreachable` | `UNAVAILABLE` |" in codes
    assert all(f"| `{name}` |" in reference.file() for name in METRIC_NAMES)
    assert "| `batch_size` | 8 | 1 to 256 |" in reference.spec()
    settings = reference.settings()
    assert all(f"| `{name}` |" in settings for name in OrchestratorSettings.model_fields)
    protos = reference.protos()
    for message in campaign_pb2.DESCRIPTOR.message_types_by_name:
        assert f"\n### message {message}\n" in protos
    assert "| `CreateCampaign` | [CreateCampaignRequest](#message-createcampaignrequest) |" in protos
    assert "Checks a spec and starts it." in protos
    metrics = reference.metrics()
    for metric in ("caligo_rows_total` | counter | phase, outcome", "caligo_farm_simulators` | gauge |"):
        assert f"| `{metric}" in metrics


def test_what_is_public_and_says_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    written = griffe.visit("quiet", Path("quiet.py"), "class Loud:\n    '''Says.'''\n    def quiet(self): ...\n")
    monkeypatch.setattr(reference, "_PACKAGE", {"quiet": written})
    with pytest.raises(ValueError, match="quiet"):
        reference.module("quiet")


def test_a_broken_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.md").write_text("# One\n\n[nowhere](nowhere.md)\n")
    settings = f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: pages\nsite_dir: site\nnav: [index.md]\nnot_in_nav: ''\n"
    (tmp_path / "mkdocs.yml").write_text(settings)
    command = [*BUILD, "--config-file", str(tmp_path / "mkdocs.yml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert "'nowhere.md'" in ended.stderr
    (tmp_path / "pages" / "index.md").write_text("# One\n")
    subprocess.run(command, capture_output=True, timeout=120, check=True)
