"""A machine with Python and no C++ compiler: everything works but KeOps, which nothing needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from caligo_surrogate import keops


def run(path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a Python module where no compiler is found."""
    surroundings = {name: value for name, value in os.environ.items() if name != "CXX"} | {"PATH": str(path)}
    return subprocess.run(
        [sys.executable, "-m", *command], env=surroundings, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_surrogate_that_is_told_keops_refuses_at_its_start(tmp_path: Path) -> None:
    ended = run(tmp_path, "caligo_surrogate", "--kernel", "keops")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "caligo surrogate: kernel: keops needs a C++ compiler: g++, clang++, or the one that CXX names; "
        "use auto, dense or blocks\n"
    )


@pytest.mark.parametrize("name", ["g++", "clang++", "c++-14"])
def test_what_counts_as_a_compiler(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KeOps' own choice; by any other name it has to be told."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "C++ compiler" in (keops.missing() or "")
    (tmp_path / name).touch(0o755)
    assert (keops.missing() is None) == (name != "c++-14")
    monkeypatch.setenv("CXX", name)
    assert keops.missing() is None


@pytest.mark.keops
def test_this_one_needs_it() -> None:
    assert keops.missing() is None


def test_tests_that_need_it_are_skipped_by_name(tmp_path: Path) -> None:
    this = f"{__file__}::{test_this_one_needs_it.__name__}"
    ended = run(tmp_path, "pytest", "-p", "no:cacheprovider", "-rs", this)
    assert ended.returncode == 0, ended.stdout
    assert "SKIPPED [1]" in ended.stdout and "KeOps needs a C++ compiler" in ended.stdout
