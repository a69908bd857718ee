"""The report and the dataset behind it, on a campaign made from the closed form."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from caligo.cli import main
from caligo.dataset import GROUPS, HISTORY_COLUMNS, GuardrailFindings, open_campaign
from caligo.discrepancy import Discrepancy, Verdict
from caligo.errors import InvalidArgument
from caligo.phases import Phase
from caligo.physics.claims import CLAIMS
from caligo.recompute import KeyStatus, recompute
from caligo.results import METRIC, ROW_DTYPE, ProtocolOutcome, ResultRows, empty_rows
from caligo.slices import CliffSlice
from caligo.space import STRATEGY_COLUMN, SYMBOLS, Strategy
from caligo.spec import SpaceSpec

FIGURES = {"cliff.png", "outcomes.png", "key_rate.png", "discrepancy.png", "relevance.png", "learning.png"}


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
        f"| best key rate, claim `individual` | {best:.3g} key bits a pair |",
        "| secure share of the space, claim `individual` | 43.7% ± 2.1% |",
        "| 1 | pair fidelity (F) | 25.0% ± 0.8% | 32.5% ± 0.4% |",
        "**Deviates (p = 0.002, 212 rows), clearest by -0.031 ± 0.008 at r=0.745",
        "most of all along e_det; |difference| below 0.05 everywhere at 95 %.**",
        "is where the closed form alone makes a key as likely as none",
        'F1 of "key > 0" 0.945',
        "of 412 runs whose probability of failure exceeded 0.995",
        "1 gave a key; 23 of them were this campaign's. With 95 % confidence, at most 0.9%",
        "standard deviations",
        "r_eff = r^(Δt / 1 s)",
        "name: synthetic",
        "- caligo 0.1.0",
    ):
        assert line in text, line
    assert all(f"({name})" in text for name in FIGURES)
    assert "nan" not in text.lower()


def test_the_statement_is_the_registry_s(page: Path) -> None:
    text, claim = page.read_text(encoding="utf-8"), CLAIMS["individual"]
    for line in (
        "Here it is `individual`: qubits kept as they come, flagged erasure.",
        f"| status | {claim.status} |",
        f"| source | {claim.source} |",
        f"| attacks covered | {claim.adversary} |",
        f"| charged | {claim.charged} |",
        f"| receiver | {claim.receiver} |",
        "| sender's error | 2.0e-10 = eps_s + eps_h of 1e-10 each |",
        "| partition | `alice`: Alice's bases divide the rounds",
        "honest parties fail it with probability 1e-10 at most",
        "a run is lost to a frame with probability 0.003",
        "the simulator's own count, which nobody in the protocol knows, and its codes start from the exact Q",
        "F ~ Beta(2, 1)",
    ):
        assert line in text, line


def test_what_is_not_decoded_and_what_is_lost_is_counted(page: Path, campaign_file: Path) -> None:
    text = page.read_text(encoding="utf-8")
    with open_campaign(campaign_file) as campaign:
        columns = campaign.columns()
    key = columns["outcome"] == "success"
    partly = key & (columns["frames_decoded"] < columns["frames_total"])
    bits = columns["key_length"]
    decoded = np.median(columns["frames_decoded"][partly] / columns["frames_total"][partly])
    assert 0 < partly.sum() < key.sum()
    assert (
        f"Of the {key.sum()} rows with a key, {partly.sum()} rest on frames that were not decoded; "
        f"{bits[partly].sum() / bits.sum():.1%} of all key bits are theirs, and half of them had at most {decoded:.1%}"
    ) in text
    lost = np.count_nonzero(columns["reason"] == "frame_lost")
    baseline = np.count_nonzero(key & (columns["strategy"] == "baseline"))
    assert lost
    assert f"Of the {baseline + lost} runs of the baseline with two keys at Alice, {lost} lost" in text
    longest = columns["reconciled"].max()
    assert f"with probability {longest / 49 / 2**50:.1e} at most" in text and f"({longest:,} bits)" in text


def test_the_cliff_under_every_claim(page: Path, campaign_file: Path) -> None:
    lines = [line.split(" | ") for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    table = {cells[0].strip("|*` "): [c.strip(" |") for c in cells[1:]] for cells in lines if len(cells) == 8}
    assert list(table)[1:] == list(CLAIMS)
    with open_campaign(campaign_file) as campaign:
        rows, spec = campaign.rows(), campaign.spec
    for name in ("individual", "lupo2023", "stw09", "kww2012"):
        status, partition, keys, undecoded, unknown, share, uniform = table[name]
        found = recompute(rows, spec, CLAIMS[name])
        counted = [np.count_nonzero(found.status == s) for s in (KeyStatus.KEY, KeyStatus.UNDECODED, KeyStatus.UNKNOWN)]
        assert (status, partition) == (str(CLAIMS[name].status), "alice")
        assert [int(keys), int(undecoded), int(unknown)] == counted
        assert float(uniform.split("%")[0]) < float(share.split("%")[0])
    assert table["individual"][2] == str(np.count_nonzero(rows["outcome"] == 1))
    assert table["erven2014"][:5] == ["lemmas combined", "bob", "n/a", "", ""]
    assert "n/a: `erven2014` says nothing about these rows: erven2014 covers partition bob only, not alice." in (
        page.read_text(encoding="utf-8")
    )


@pytest.mark.parametrize(
    ("claim", "partition"), [("lupo2023", "alice"), ("stw09", "alice"), ("stw09", "bob"), ("erven2014", "bob")]
)
def test_each_claim_states_its_own_assumptions(campaign_file: Path, tmp_path: Path, claim: str, partition: str) -> None:
    text = report_with(campaign_file, tmp_path, physics={"claim": claim}, protocol={"partition": partition})
    assert f"| attacks covered | {CLAIMS[claim].adversary} |" in text
    assert f"| receiver | {CLAIMS[claim].receiver} |" in text
    assert CLAIMS["individual"].charged not in text
    assert f"under the claim `{claim}`" in text


def test_a_campaign_of_release_0_1_says_first_under_which_rules_it_was_made(
    campaign_file: Path, tmp_path: Path
) -> None:
    text = report_with(campaign_file, tmp_path, physics={"claim": None, "bound": "lupo2023"})
    assert text.splitlines()[2].startswith("**These rows were made under the rules of release 0.1 (bound lupo2023)")
    assert "sender's error | none: nothing is proved" in text
    assert "n/a: `individual`, `lupo2023`, `stw09`, `erven2014`, `kww2012` say nothing about these rows" in text
    assert "### Correctness" not in text


def test_a_campaign_of_a_claim_that_is_not_known_still_reports(campaign_file: Path, tmp_path: Path) -> None:
    text = report_with(campaign_file, tmp_path, physics={"claim": "entangled2031"})
    assert "**These rows were made under the claim 'entangled2031', which this release does not know.**" in text
    assert "## What a key length claims" not in text


def report_with(original: Path, directory: Path, **changes: dict[str, Any]) -> str:
    """The words of the report about a copy of a file whose spec says something else; None takes a key away."""
    from caligo.cli import report

    path = directory / "other.h5"
    path.write_bytes(original.read_bytes())
    with h5py.File(path, "r+") as file:
        spec = json.loads(file.attrs["spec"])
        for part, values in changes.items():
            merged = {**spec[part], **values}
            spec[part] = {key: value for key, value in merged.items() if value is not None}
        file.attrs["spec"] = json.dumps(spec)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(report, "_draw", lambda *_: {name.removesuffix(".png") for name in FIGURES})
        return report.write_report(path, directory / "report").read_text(encoding="utf-8")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of few pixels, where only that they are drawn matters."""
    from caligo.cli import figures

    monkeypatch.setattr(figures, "_STYLE", {**figures._STYLE, "savefig.dpi": 20})


def test_a_campaign_without_a_fit_still_reports(
    write_campaign: Callable[..., Path], tmp_path: Path, small: None
) -> None:
    from caligo.cli.report import write_report

    path = write_campaign(tmp_path / "young.h5", lhs=20, active=4, missing=4, fitted=False)
    page = write_report(path, tmp_path / "report")
    assert {p.name for p in page.parent.glob("*.png")} == {"outcomes.png", "key_rate.png"}
    assert "The surrogate has not been fitted yet." in page.read_text(encoding="utf-8")


def test_a_campaign_without_rows_still_reports(
    write_campaign: Callable[..., Path], tmp_path: Path, small: None
) -> None:
    from caligo.cli.report import write_report

    path = write_campaign(tmp_path / "empty.h5", lhs=4, active=4, missing=4, fitted=False)
    with h5py.File(path, "r+") as file:
        file["lhs_warmup/outcome"][:] = 255
    assert "| rows | 0 |" in write_report(path, tmp_path / "report").read_text(encoding="utf-8")


@pytest.mark.parametrize("scale", [0.59, 0.034, 7.0])
def test_the_colours_are_labelled_within_their_bar(scale: float) -> None:
    """A label beyond the bar would be written over the one at its end."""
    from caligo.cli import figures

    space = SpaceSpec().resolve()
    mean = np.broadcast_to(np.linspace(-scale, scale, 11, dtype=np.float32), (2, 11, 11))
    axis = np.linspace(0.86, 0.99, 11, dtype=np.float32)
    at = space.model_bounds().mean(axis=0).astype(np.float32)
    piece = CliffSlice((SYMBOLS.index("F"), SYMBOLS.index("r")), axis, axis, at, mean, np.full_like(mean, 0.1 * scale))
    with figures.style():
        drawn = figures.cliff(piece, empty_rows(), space, None, "margin", "individual")
        bar = drawn.axes[-1]
        low, high = bar.get_ylim()
        ticks = bar.get_yticks()
    assert len(ticks) >= 3
    assert low <= min(ticks) < max(ticks) <= high


@pytest.mark.parametrize(("blind_fraction", "left_out"), [(0.0, 1), (1.0, 0)])
def test_a_campaign_of_one_strategy_has_a_cliff(
    campaign_file: Path, tmp_path: Path, blind_fraction: float, left_out: int, small: None
) -> None:
    from caligo.cli import figures

    path = tmp_path / "one.h5"
    path.write_bytes(campaign_file.read_bytes())
    with h5py.File(path, "r+") as file:
        file["surrogate/cliff_margin"][left_out] = np.nan  # as the orchestrator writes it
    with open_campaign(path) as campaign:
        piece = campaign.surrogate.cliff
    assert piece is not None and np.isnan(piece.mean[left_out]).all() and np.isfinite(piece.mean[1 - left_out]).all()
    text = report_with(path, tmp_path, space={"blind_fraction": blind_fraction})
    assert "not been fitted" not in text and "(cliff.png)" in text
    with open_campaign(path) as campaign, figures.style():
        figures.cliff(piece, campaign.rows(), campaign.spec.space.resolve(), None, "margin", "individual").savefig(
            tmp_path / "cliff.png"
        )


def test_a_figure_that_fails_costs_that_figure(
    campaign_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    small: None,
) -> None:
    from caligo.cli import report

    def fail(*_: object) -> None:
        raise ZeroDivisionError("no point of some kind")

    (tmp_path / "key_rate.png").write_bytes(b"of an earlier report")
    monkeypatch.setattr(report.figures, "key_rate", fail)
    page = report.write_report(campaign_file, tmp_path)
    assert {p.name for p in tmp_path.glob("*.png")} == FIGURES - {"key_rate.png"}
    assert "could not be drawn" in page.read_text(encoding="utf-8") and "(key_rate.png)" not in page.read_text()
    err = capsys.readouterr().err
    assert err.startswith(f"caligo: no figure {tmp_path}/key_rate.png: ZeroDivisionError: no point of some kind")
    assert err.count("\n") == 1


def nothing(rows: ResultRows) -> ResultRows:
    return rows[:0]


def one(rows: ResultRows) -> ResultRows:
    return rows[:1]


def no_frame_reached(rows: ResultRows) -> ResultRows:
    rows["metrics"], rows["outcome"] = np.nan, ProtocolOutcome.FAILURE_SECURITY
    rows["metrics"][:, METRIC["margin"]] = -0.2
    return rows


def all_timed_out(rows: ResultRows) -> ResultRows:
    rows["metrics"], rows["outcome"] = np.nan, ProtocolOutcome.FAILURE_TIMEOUT
    return rows


def all_with_a_key_and_no_error(rows: ResultRows) -> ResultRows:
    rows["outcome"], rows["inputs"][:, STRATEGY_COLUMN] = ProtocolOutcome.SUCCESS, Strategy.BLIND
    rows["metrics"][:, METRIC["qber"]], rows["metrics"][:, METRIC["net_efficiency"]] = 0.0, 1e-6
    return rows


@pytest.mark.parametrize("kind", [nothing, one, no_frame_reached, all_timed_out, all_with_a_key_and_no_error])
def test_rows_of_any_kind_are_drawn(
    campaign_file: Path, tmp_path: Path, kind: Callable[[ResultRows], ResultRows], small: None
) -> None:
    from caligo.cli import figures

    with open_campaign(campaign_file) as campaign:
        by_phase = {phase: kind(campaign.rows(phase)) for phase in GROUPS}
        space, piece = campaign.spec.space.resolve(), campaign.surrogate.cliff
    rows = np.concatenate(list(by_phase.values()))
    assert piece is not None
    with figures.style():
        figures.outcomes(by_phase).savefig(tmp_path / "outcomes.png")
        figures.key_rate(rows, "individual").savefig(tmp_path / "key_rate.png")
        figures.cliff(piece, rows, space, None, "margin", "individual").savefig(tmp_path / "cliff.png")


def test_a_user_s_settings_of_matplotlib_change_nothing(page: Path, campaign_file: Path, tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text(
        "text.usetex: True\nimage.cmap: nowhere\nfigure.dpi: 20\nsavefig.transparent: True\naxes.facecolor: red\n"
        "font.size: 30\nsavefig.format: pdf\nno such line\n"
    )
    ended = subprocess.run(
        [Path(sys.executable).with_name("caligo"), "report", campaign_file, "--output", "report"],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "module://nowhere.backend_inline", "HOME": "/dev/null/nobody"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "report/report.md\n", "")
    for name in FIGURES:
        assert (tmp_path / "report" / name).read_bytes() == (page.parent / name).read_bytes(), name


def test_the_command(
    campaign_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    small: None,
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
    assert found.history.shape == (13, len(HISTORY_COLUMNS))
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
    assert (young.relevance, young.discrepancy, young.profiles) == (None, None, None)
    assert len(young.history) == 0


def test_what_differs_from_theory_is_read_and_said(campaign_file: Path, tmp_path: Path) -> None:
    with open_campaign(campaign_file) as campaign:
        found = campaign.surrogate
    assert found.relevance is not None and found.relevance.shape == (9, 4)
    assert found.profiles is not None and found.profiles.shape == (9, 17, 3)
    assert found.discrepancy is not None
    assert (found.discrepancy.verdict, found.discrepancy.parameter) == (Verdict.DIFFERS, "e_det")
    assert Discrepancy.from_message(found.discrepancy.to_message()).sentence == found.discrepancy.sentence


@pytest.mark.parametrize(
    ("numbers", "rows", "words"),
    [
        (
            [0.4, 0.003, 0.001, 0.002],
            81,
            "**No deviation found (p = 0.4, 81 rows); |difference| below 0.003 everywhere",
        ),
        ([np.nan, 0.03, 0.0, 0.01], 5, "**Not tested: 5 rows have a margin that counts, 9 are needed; |difference|"),
        ([0.001, np.nan, np.nan, np.nan], 9, "**Deviates (p = 0.001, 9 rows).**"),
    ],
)
def test_every_verdict_is_said(
    campaign_file: Path, tmp_path: Path, numbers: list[float], rows: int, words: str
) -> None:
    path = tmp_path / "verdict.h5"
    path.write_bytes(campaign_file.read_bytes())
    with h5py.File(path, "r+") as file:
        file["surrogate/discrepancy"][:], file["surrogate/discrepancy_rows"][:] = numbers, rows
        if np.isnan(numbers[1]):  # no place matters
            file["surrogate/discrepancy_point"][:], file["surrogate/discrepancy_along"][:, :, 1:] = np.nan, np.nan
    text = report_with(path, tmp_path)
    assert words in text and "nan" not in text.lower()


def test_a_surrogate_that_started_from_nothing_is_not_compared(campaign_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "constant.h5"
    path.write_bytes(campaign_file.read_bytes())
    with h5py.File(path, "r+") as file:
        file["surrogate/discrepancy"][:] = file["surrogate/discrepancy_along"][:] = np.nan
    with open_campaign(path) as campaign:
        assert campaign.surrogate.discrepancy is None
    assert "The surrogate started from nothing" in report_with(path, tmp_path)


def test_profiles_that_end_or_are_missing_are_drawn(campaign_file: Path, tmp_path: Path, small: None) -> None:
    from caligo.cli import figures

    with open_campaign(campaign_file) as campaign:
        profiles = campaign.surrogate.profiles
    assert profiles is not None
    with figures.style():
        for nothing in (slice(1, 9), slice(0, 8), slice(0, 9)):
            some = profiles.copy()
            some[nothing, :, 1:] = np.nan
            figures.discrepancy(some, "individual").savefig(tmp_path / "discrepancy.png")
        figures.relevance(np.zeros((9, 4), dtype=np.float32), "margin", "individual").savefig(tmp_path / "r.png")


def test_a_file_of_the_first_release_is_read(campaign_file: Path, tmp_path: Path, small: None) -> None:
    from caligo.cli.report import write_report

    path = tmp_path / "old.h5"
    path.write_bytes(campaign_file.read_bytes())
    with h5py.File(path, "r+") as file:
        for name in ("forecast", "guardrail", "guardrail_rows", "relevance"):
            del file["surrogate"][name]
        for name in [name for name in file["surrogate"] if name.startswith("discrepancy")]:
            del file["surrogate"][name]
    with open_campaign(path) as campaign:
        found = campaign.surrogate
    assert (found.calibration, found.guardrail, found.relevance, found.discrepancy, found.profiles) == (None,) * 5
    text = write_report(path, tmp_path / "report").read_text(encoding="utf-8")
    assert "Every row of the active phase was foretold" not in text
    assert "Nothing in this file: it is of a release that did not look." in text
    assert "No Sobol indices in this file" in text
    drawn = {p.name for p in (tmp_path / "report").glob("*.png")}
    assert drawn == FIGURES - {"relevance.png", "discrepancy.png"}


def test_why_a_file_cannot_be_opened(campaign_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(path: Path) -> str:
        with pytest.raises(InvalidArgument) as caught:
            open_campaign(path)
        return caught.value.violations[0].allowed

    (tmp_path / "text.h5").write_text("no HDF5")
    (tmp_path / "half.h5").write_bytes(campaign_file.read_bytes()[:100_000])
    assert reason(tmp_path / "absent.h5") == "No such file or directory"
    assert reason(tmp_path) == "Is a directory"
    assert reason(tmp_path / ("x" * 300)) == "File name too long"
    assert reason(tmp_path / "text.h5") == "is not an HDF5 file"
    assert reason(tmp_path / "half.h5") == "is a damaged HDF5 file"
    for number in (errno.EACCES, errno.EIO, errno.EAGAIN):  # the last one: locked by whoever writes it

        def refuse(*_: object, number: int = number) -> None:
            raise OSError(number, "Unable to synchronously open file (and much more)")

        monkeypatch.setattr(h5py, "File", refuse)
        assert reason(campaign_file) == os.strerror(number)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: f.attrs.__delitem__("format"), "format=caligo-campaign/2 or caligo-campaign/1"),
        (lambda f: f.attrs.__setitem__("spec", "{"), "damaged attributes"),
        (lambda f: f.attrs.__delitem__("versions"), "damaged attributes"),
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


def test_a_space_without_two_parameters_that_vary_has_no_slice(
    write_campaign: Callable[..., Path], tmp_path: Path
) -> None:
    from caligo.cli.report import draw_slice, write_report

    path = write_campaign(tmp_path / "exploration_data.h5", lhs=40, active=8)
    with h5py.File(path, "r+") as file:
        file["surrogate/cliff_y"][...] = file["surrogate/cliff_y"][0]
    text = write_report(path, tmp_path / "report").read_text(encoding="utf-8")
    assert "Fewer than two parameters vary in the explored space" in text
    assert not (tmp_path / "report" / "cliff.png").exists() and "could not be drawn" not in text
    with open_campaign(path) as campaign, pytest.raises(InvalidArgument, match="F N: must both vary"):
        assert campaign.surrogate.cliff is not None
        draw_slice(campaign.surrogate.cliff, campaign.spec, tmp_path / "slice.png")
