"""The report and the dataset behind it, on a campaign made from the closed form."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from caligo.cli import main
from caligo.dataset import GuardrailFindings, open_campaign
from caligo.errors import InvalidArgument
from caligo.results import METRIC, ROW_DTYPE
from caligo.seeds import Phase

FIGURES = {"cliff.png", "outcomes.png", "key_rate.png", "relevance.png", "learning.png"}


@pytest.fixture(scope="module")
def page(campaign_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from caligo.cli.report import write_report

    return write_report(campaign_file, tmp_path_factory.mktemp("report"))


def test_figures_are_pictures(page: Path) -> None:
    assert {p.name for p in page.parent.glob("*.png")} == FIGURES
    for name in FIGURES:
        with Image.open(page.parent / name) as image:
            assert min(image.size) >= 500
            colours = image.convert("RGB").getcolors(maxcolors=2**24)
            assert colours is not None and len(colours) > 50


def test_page_holds_the_numbers(page: Path, campaign_file: Path) -> None:
    text = page.read_text(encoding="utf-8")
    with open_campaign(campaign_file) as campaign:
        rows = campaign.rows()
    success = rows["outcome"] == 1
    best = rows["metrics"][success, METRIC["net_efficiency"]].max()
    for line in (
        f"| with a key | {success.sum()} |",
        f"| simulated | {np.count_nonzero(rows['outcome'] < 7)} |",
        f"| best key rate | {best:.3g} key bits a pair |",
        "| secure share of the space | 43.7% ± 2.1% |",
        "| 1 | pair fidelity (F) | 0.21 |",
        'F1 of "key > 0" 0.945',
        "412 simulated rows whose probability of failure exceeded 0.995",
        "1 gave a key; 23 of them had been audits. With 95 % confidence, at most 0.9%",
        "standard deviations",
        "arXiv:2302.04236",
        "Attacks that encode several qubits into the memory are **not** covered",
        "r_eff = r^(Δt / 1 s)",
        "name: synthetic",
        "- caligo 0.1.0",
    ):
        assert line in text, line
    assert all(f"({name})" in text for name in FIGURES)
    assert "nan" not in text.lower()


@pytest.mark.parametrize("bound", ["kww2012", "erven2014"])
def test_each_bound_states_its_own_assumptions(campaign_file: Path, tmp_path: Path, bound: str) -> None:
    from caligo.cli.report import BOUNDS, write_report

    path = tmp_path / "other.h5"
    path.write_bytes(campaign_file.read_bytes())
    with h5py.File(path, "r+") as file:
        spec = json.loads(file.attrs["spec"])
        spec["physics"]["bound"] = bound
        file.attrs["spec"] = json.dumps(spec)
    text = write_report(path, tmp_path / "report").read_text(encoding="utf-8")
    assert BOUNDS[bound].partition in text and BOUNDS[bound].attacks in text
    assert "2302.04236" not in text


def test_a_campaign_without_a_fit_still_reports(write_campaign: Callable[..., Path], tmp_path: Path) -> None:
    from caligo.cli.report import write_report

    path = write_campaign(tmp_path / "young.h5", lhs=20, active=4, missing=4, fitted=False)
    page = write_report(path, tmp_path / "report")
    assert {p.name for p in page.parent.glob("*.png")} == {"outcomes.png", "key_rate.png"}
    assert "The surrogate has not been fitted yet." in page.read_text(encoding="utf-8")


def test_a_campaign_without_rows_still_reports(write_campaign: Callable[..., Path], tmp_path: Path) -> None:
    from caligo.cli.report import write_report

    path = write_campaign(tmp_path / "empty.h5", lhs=4, active=4, missing=4, fitted=False)
    with h5py.File(path, "r+") as file:
        file["lhs_warmup/outcome"][:] = 255
    assert "| rows | 0 |" in write_report(path, tmp_path / "report").read_text(encoding="utf-8")


def test_the_command(
    campaign_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["caligo", "report", str(campaign_file), "--output", str(tmp_path), "--json"])
    assert main() == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["report"] == str(tmp_path / "report.md")
    assert {Path(p).name for p in answer["figures"]} == FIGURES


# --- dataset --------------------------------------------------------------------------------------------------------


def test_only_rows_that_are_there(campaign_file: Path) -> None:
    with open_campaign(campaign_file) as campaign:
        assert len(campaign.rows(Phase.LHS)) == 300
        assert len(campaign.rows(Phase.ACTIVE)) == 90
        assert campaign.rows().dtype == ROW_DTYPE
        assert (campaign.campaign, campaign.spec.name) == ("campaigns/0f3a9c", "synthetic")


def test_columns_are_physical_and_float32(campaign_file: Path) -> None:
    with open_campaign(campaign_file) as campaign:
        rows, columns = campaign.rows(), campaign.columns()
    assert not [name for name, values in columns.items() if values.dtype == np.float64]
    np.testing.assert_allclose(columns["N"], 10 ** rows["inputs"][:, 7].astype(float), rtol=1e-5)
    np.testing.assert_array_equal(columns["F"], rows["inputs"][:, 3])
    np.testing.assert_array_equal(columns["outcome"] == "success", rows["outcome"] == 1)
    np.testing.assert_array_equal(columns["strategy"] == "blind", rows["inputs"][:, 8] == 1)
    np.testing.assert_array_equal(columns["pairs"], rows["counts"][:, 0])


def test_pandas_and_xarray(campaign_file: Path) -> None:
    with open_campaign(campaign_file) as campaign:
        table, dataset, columns = campaign.to_pandas(), campaign.to_xarray(Phase.ACTIVE), campaign.columns()
    assert list(table.columns) == list(columns) and len(table) == 390
    assert table.phase.value_counts().to_dict() == {"lhs": 300, "active": 90}
    np.testing.assert_array_equal(table["margin"], columns["margin"])
    assert dataset.sizes == {"row": 90}
    assert dataset["dt_ns"].attrs["units"] == "ns"
    assert dataset["margin"].dtype == np.float32


def test_a_missing_library_is_named(campaign_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with open_campaign(campaign_file) as campaign, pytest.raises(InvalidArgument, match="pip install pandas"):
        campaign.to_pandas()


def test_surrogate_findings(campaign_file: Path, write_campaign: Callable[..., Path], tmp_path: Path) -> None:
    with open_campaign(campaign_file) as campaign:
        found, active = campaign.surrogate, campaign.rows(Phase.ACTIVE)
    assert found.secure_fraction == pytest.approx((0.437, 0.021))
    assert found.history.shape == (13, 6)
    assert found.guardrail == GuardrailFindings(pytest.approx(0.995), pytest.approx(0.0085), 412, 1, 23, 0)
    assert found.calibration is not None
    simulated = np.count_nonzero(active["outcome"] < 7)
    assert found.calibration.rows == simulated > 50
    assert found.calibration.coverage == pytest.approx((0.5, 0.9, 0.95), abs=0.2)
    assert found.cliff is not None and found.cliff.axes == (3, 7)
    assert found.cliff.mean.shape == found.cliff.deviation.shape == (2, 41, 41)
    with open_campaign(write_campaign(tmp_path / "young.h5", lhs=4, active=1, fitted=False)) as campaign:
        young = campaign.surrogate
    assert (young.length_scales, young.noise, young.secure_fraction, young.cliff) == (None, None, None, None)
    assert (young.calibration, young.guardrail) == (None, None)
    assert len(young.history) == 0


def test_a_file_of_the_first_release_is_read(campaign_file: Path, tmp_path: Path) -> None:
    from caligo.cli.report import write_report

    path = tmp_path / "old.h5"
    path.write_bytes(campaign_file.read_bytes())
    with h5py.File(path, "r+") as file:
        for name in ("forecast", "guardrail", "guardrail_rows"):
            del file["surrogate"][name]
    with open_campaign(path) as campaign:
        assert (campaign.surrogate.calibration, campaign.surrogate.guardrail) == (None, None)
    assert "foretold" not in write_report(path, tmp_path / "report").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: f.attrs.__delitem__("format"), "format='caligo-campaign/1'"),
        (lambda f: f.attrs.__setitem__("spec", "{"), "damaged attributes"),
        (lambda f: f.attrs.__delitem__("versions"), "damaged attributes"),
        (lambda f: f.attrs.__setitem__("spec", '{"nmae": 1}'), "nmae: unknown key"),
        (lambda f: f.__delitem__("active_learning"), "no group active_learning"),
    ],
)
def test_a_file_that_is_no_campaign(
    campaign_file: Path, tmp_path: Path, damage: Callable[[Any], None], words: str
) -> None:
    path = tmp_path / "damaged.h5"
    path.write_bytes(campaign_file.read_bytes())
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(InvalidArgument) as caught:
        open_campaign(path)
    assert words in str(caught.value)
    h5py.File(path, "r+").close()  # it was closed again
