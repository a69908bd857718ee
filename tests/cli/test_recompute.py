"""`caligo recompute`: the rows of a file under every claim."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from caligo.cli import main
from caligo.dataset import open_campaign
from caligo.physics.claims import CLAIMS

OLD = Path(__file__).parents[1] / "assets" / "release-0.1" / "data" / "campaigns" / "erven" / "exploration_data.h5"
Caligo = Callable[..., tuple[int, str, str]]


@pytest.fixture
def caligo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Caligo:
    """Runs a command: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["caligo", *map(str, arguments)])
        code = main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def flat(text: str) -> str:
    """A table for people as one line."""
    return " ".join(text.split())


def test_every_claim_side_by_side(caligo: Caligo, campaign_file: Path) -> None:
    code, out, err = caligo("recompute", campaign_file, "--json")
    found = {line["claim"]: line for line in map(json.loads, out.splitlines())}
    assert (code, err, list(found)) == (0, "", list(CLAIMS))
    with open_campaign(campaign_file) as campaign:
        columns = campaign.columns()
    own = found["individual"]
    assert own["own"] and not found["lupo2023"]["own"]
    assert own["key"] == (columns["outcome"] == "success").sum()
    assert own["key_bits"] == columns["key_length"].sum()
    assert own["frame_lost"] == (columns["reason"] == "frame_lost").sum() > 0
    assert own["undecoded"] == 0 < found["stw09"]["undecoded"]
    assert found["kww2012"]["key"] < own["key"]
    assert found["kww2012"]["status"] == "none"
    assert "key" not in found["erven2014"]
    text = flat(caligo("recompute", campaign_file)[1])
    assert "erven2014 lemmas combined n/a erven2014 covers partition bob only, not alice" in text
    assert f"individual own derivation {own['key']} 0" in text and "the campaign's own" in text
    assert "unless a frame fails (0.003)" in text


def test_chosen_claims(caligo: Caligo, campaign_file: Path) -> None:
    out = caligo("recompute", campaign_file, "--claim", "stw09", "--claim", "erven2014", "--json")[1]
    assert [json.loads(line)["claim"] for line in out.splitlines()] == ["stw09", "erven2014"]
    code, out, err = caligo("recompute", campaign_file, "--claim", "lupo")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("caligo: --claim: no claim 'lupo': there are individual, lupo2023")
    assert caligo("recompute", "none.h5") == (2, "", "caligo: none.h5: No such file or directory\n")


def test_rows(caligo: Caligo, campaign_file: Path) -> None:
    code, out, _ = caligo("recompute", campaign_file, "--rows", "--claim", "individual", "--claim", "erven2014")
    heading, *lines = (line.split("\t") for line in out.splitlines())
    rows = [dict(zip(heading, line, strict=True)) for line in lines]
    assert (code, {row["claim"] for row in rows}) == (0, {"individual"})
    with open_campaign(campaign_file) as campaign:
        columns = campaign.columns()
    assert [int(row["key_length"]) for row in rows] == columns["key_length"].tolist()
    assert [row["phase"] for row in rows] == columns["phase"].tolist()
    assert [int(row["index"]) for row in rows] == columns["index"].tolist()
    assert {row["key"] for row in rows} == {"key", "no_key", "frame_lost"}
    lost = next(row for row in rows if row["key"] == "frame_lost")
    assert float(lost["margin"]) > 0 == int(lost["key_length"])
    first = json.loads(caligo("recompute", campaign_file, "--rows", "--json")[1].splitlines()[0])
    assert set(first) == set(heading)


def test_a_file_of_release_0_1(caligo: Caligo) -> None:
    code, out, err = caligo("recompute", OLD, "--json")
    found = {line["claim"]: line for line in map(json.loads, out.splitlines())}
    assert code == 0
    assert err.startswith(f"{OLD}: made under the rules of release 0.1 (bound erven2014)")
    assert found["release-0.1/erven2014"]["own"] and found["release-0.1/erven2014"]["key"] == 11
    assert {found[name]["why_not"] for name in CLAIMS} == {"the rows are of another protocol"}


def test_a_campaign_without_rows(caligo: Caligo, write_campaign: Callable[..., Path], tmp_path: Path) -> None:
    path = write_campaign(tmp_path / "empty.h5", lhs=4, active=4, missing=4, fitted=False)
    with h5py.File(path, "r+") as file:
        file["lhs_warmup/outcome"][:] = 255
    code, out, _ = caligo("recompute", path, "--claim", "individual", "--json")
    assert code == 0 and json.loads(out)["key"] == 0
