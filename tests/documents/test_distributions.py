"""The distributions that `make dist` has built, in environments that have nothing else; and what `make sbom` lists.

What they ask for comes from the index that pip knows, at the versions of requirements.txt. `TORCH` names another build
of PyTorch, as for `make env`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import caligo

pytestmark = pytest.mark.documents

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"


def environment(directory: Path, *wanted: str) -> Path:
    """The directory of programs of a new environment with what is wanted, of ours only what lies in dist/."""
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    pip = [directory / "bin" / "python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "requirements.txt"]
    for requirement in wanted:
        subprocess.run([*pip, "--find-links", DIST, requirement], check=True, timeout=900)
    return directory / "bin"


def call(*command: str | Path, cwd: Path) -> str:
    """What a program prints, away from the checkout and its variables."""
    surroundings = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    ended = subprocess.run(command, cwd=cwd, env=surroundings, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_all_of_it_installs_and_runs_a_campaign(tmp_path: Path) -> None:
    torch = os.environ.get("TORCH", "torch==2.13.0")
    programs = environment(tmp_path / "environment", torch, f"caligo[all]=={caligo.__version__}")
    work = tmp_path / "work"
    work.mkdir()
    assert str(tmp_path) in call(programs / "caligo", "--version", cwd=work).partition("\n")[0]
    spec = ROOT / "examples" / "quick.yaml"
    said = json.loads(call(programs / "caligo", "run", spec, "--output", "results", "--json", cwd=work))
    assert said["state"] == "succeeded"
    assert Path(work, said["dataset"]).is_file()
    assert Path(work, said["report"]).is_file()
    about = json.loads(call(programs / "caligo", "dataset", "info", said["dataset"], "--json", cwd=work))
    assert about["versions"]["caligo"] == caligo.__version__


def test_the_library_alone_is_a_client(tmp_path: Path) -> None:
    programs = environment(tmp_path / "environment", f"caligo=={caligo.__version__}")
    program = (
        "from caligo.client import CampaignClient\n"
        "from caligo.spec import CampaignSpec\n"
        "from caligo.errors import Unreachable\n"
        "try:\n"
        "    CampaignClient('unix:nobody').create(CampaignSpec())\n"
        "except Unreachable:\n"
        "    print('nobody')\n"
    )
    assert call(programs / "python", "-c", program, cwd=tmp_path) == "nobody\n"
    installed = json.loads(call(programs / "python", "-m", "pip", "list", "--format", "json", cwd=tmp_path))
    assert not {"torch", "scipy", "numba", "matplotlib", "pandas"} & {one["name"] for one in installed}


def test_the_bill_of_materials_is_what_images_install() -> None:
    locks = sorted(ROOT.glob("services/*/requirements*.lock"))
    bills = sorted((ROOT / "build" / "sbom").glob("*.json"))
    assert [bill.stem for bill in bills] == [f"{lock.parent.name}-{lock.stem}" for lock in locks]
    for lock, bill in zip(locks, bills, strict=True):
        pinned = set(re.findall(r"^([\w.-]+)==([^\s;]+)", lock.read_text(), re.MULTILINE))
        listed = json.loads(bill.read_text())["components"]
        assert pinned == {(one["name"], one["version"]) for one in listed}
    licences = (ROOT / "build" / "sbom" / "licences.md").read_text()
    assert all(f"| {name} " in licences for name in ("numpy", "grpcio", "torch", "h5py"))
