"""Tutorials run from the first cell to the last, each in a fresh directory; what they promise they assert."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext", reason="requirements-docs.txt are not installed")
EXECUTED = pytest.importorskip("tools.site", reason="requirements-docs.txt are not installed").EXECUTED

pytestmark = pytest.mark.documents

TUTORIALS = sorted((Path(__file__).parents[2] / "docs" / "tutorials").glob("*.md"))
SECONDS = 280
"""What a tutorial may take where others work too; on two quiet cores each takes less than one minute."""


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_does_what_it_says(
    tutorial: Path, alone: tuple[str, ...], surroundings: dict[str, str], tmp_path: Path
) -> None:
    notebook = jupytext.read(tutorial)
    assert any(cell.cell_type == "code" and "assert" in cell.source for cell in notebook.cells)
    jupytext.write(notebook, tmp_path / "tutorial.ipynb")
    command = [*alone, "jupyter", "execute", "tutorial.ipynb", "--output", "executed"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=surroundings, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    EXECUTED.mkdir(parents=True, exist_ok=True)
    shutil.copy(tmp_path / "executed.ipynb", EXECUTED / f"{tutorial.stem}.ipynb")
