"""Images built from this checkout, and a deployment that is up. `make test-docker` says what it needs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.docker.deployment import ROOT, Deployment, docker


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(ROOT / "tests" / "docker"):
            item.add_marker(pytest.mark.docker)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Built from this checkout: base and wheelhouse first, where they are not there."""
    for script in ("base.sh", "prometheus.sh", "wheelhouse.sh"):
        subprocess.run([ROOT / "tests" / "docker" / script], cwd=ROOT, check=True, timeout=1800)
    Deployment(tmp_path_factory.mktemp("build")).compose("build", seconds=3600)


@pytest.fixture(scope="module")
def deployment(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Up and healthy, with a token for alice."""
    made = Deployment(tmp_path_factory.mktemp("deployment"))
    try:
        made.compose("up", "-d")
        made.wait_healthy()
        (orchestrator,) = made.containers("orchestrator")
        (made.directory / "ca.pem").write_text(docker("exec", orchestrator, "cat", "/tls/ca.pem"))
        (made.directory / "alice.token").write_text(docker("exec", orchestrator, "caligo", "token", "create", "alice"))
        yield made
    finally:
        made.compose("down", "--volumes", "--remove-orphans", check=False)
