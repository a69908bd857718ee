"""A service imports only what its image installs: its lock, the library and itself."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = {
    "sampler": "requirements.lock",
    "simulator": "requirements.lock",
    "surrogate": "requirements-cpu.lock",
    "orchestrator": "requirements.lock",
}
PROGRAM = """
import importlib, sys
blocked = set(sys.argv[2].split(","))

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
importlib.import_module(sys.argv[1])
"""


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("service", LOCKS)
def test_a_service_imports_nothing_that_its_image_lacks(service: str) -> None:
    lock = (ROOT / "services" / service / LOCKS[service]).read_text()
    installed = {normalised(name) for name in re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*\])?==", lock, re.MULTILINE)}
    installed |= {"caligo", f"caligo-{service}"}
    if service == "surrogate":
        installed |= {"torch"}  # by its own line of the Dockerfile
    assert "numpy" in installed
    blocked = {
        module
        for module, owners in packages_distributions().items()
        if not installed & {normalised(owner) for owner in owners} and module.isidentifier()
    }
    assert {"pytest", "ruff"} & blocked
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM,
            f"caligo_{service}.__main__",
            ",".join(sorted(blocked - {"pip", "setuptools"})),
        ],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
