"""What documents have run sees nothing of this machine but the installed packages and a directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ALONE = (
    *("unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("bash", "-c", 'ip link set lo up && exec "$0" "$@"'),
)
"""A network with nothing but a loopback, and processes that end with the first of them."""


@pytest.fixture(scope="session")
def alone() -> tuple[str, ...]:
    """The beginning of a command that is to run in a network and among processes of its own."""
    if subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network of one's own to be had here: user namespaces, unshare and ip are needed")
    return ALONE


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """Our environment without a setting, at home in the test's directory."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CALIGO_")}
    programs = f"{Path(sys.executable).parent}:{inherited['PATH']}"
    return inherited | {"HOME": str(tmp_path), "PATH": programs, "OMP_NUM_THREADS": "1"}
