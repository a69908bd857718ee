"""What release 0.1 left behind (`tests/assets/release-0.1`), copied for each test that writes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ASSETS = Path(__file__).parents[1] / "assets" / "release-0.1"


@pytest.fixture(scope="session")
def assets() -> Path:
    """The originals; for reading."""
    return ASSETS


@pytest.fixture
def data_directory(tmp_path: Path, assets: Path) -> Path:
    """A copy of the server's data directory."""
    return Path(shutil.copytree(assets / "data", tmp_path / "data"))
