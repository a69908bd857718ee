"""Dockerfiles and what they install, read as text: `tests/docker` builds and runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_sampler.settings import SamplerSettings
from caligo_simulator.settings import SimulatorSettings
from caligo_surrogate.settings import SurrogateSettings

from caligo import __version__
from caligo.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
SETTINGS: tuple[type[ServiceSettings], ...] = (
    SamplerSettings,
    SimulatorSettings,
    SurrogateSettings,
    OrchestratorSettings,
)
SERVICES = tuple(kind.section for kind in SETTINGS)
PORTS = {"orchestrator": 50050, "sampler": 50051, "simulator": 50052, "surrogate": 50053}
LOCKS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "services").rglob("*.lock"))
# What is large, and the images that may hold it.
HEAVY = {
    "torch": {"surrogate/requirements-cuda"},
    "triton": {"surrogate/requirements-cuda"},
    "nvidia-": {"surrogate/requirements-cuda"},
    "cuda-": {"surrogate/requirements-cuda"},
    "pykeops": {"surrogate/requirements-cuda"},
    "gpytorch": {"surrogate/requirements-cuda", "surrogate/requirements-cpu"},
    "scikit-learn": {"surrogate/requirements-cuda", "surrogate/requirements-cpu"},
    "scipy": {"surrogate/requirements-cuda", "surrogate/requirements-cpu", "simulator/requirements"},
    "numba": {"simulator/requirements", "sampler/requirements"},
    "llvmlite": {"simulator/requirements", "sampler/requirements"},
    "matplotlib": set(),
    "pandas": set(),
    "dask": set(),
    "distributed": set(),
    "pytest": set(),
    "uv": set(),
}


def canonical(name: str) -> str:
    """As packaging compares names (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(lock: str) -> list[str]:
    """One string a package: its pin and its hashes."""
    lines = (line for line in (ROOT / lock).read_text().splitlines() if not line.startswith("#"))
    return "\n".join(lines).replace("\\\n", " ").splitlines()


def pins(lock: str) -> dict[str, str]:
    """Versions by package."""
    found = (re.match(r"([A-Za-z0-9._-]+)==(\S+)", entry) for entry in entries(lock))
    return {canonical(match[1]): match[2] for match in found if match}


def dockerfile(service: str) -> str:
    return (ROOT / "services" / service / "Dockerfile").read_text()


def test_there_is_a_lock_for_every_image_and_for_what_builds_our_packages() -> None:
    assert LOCKS == [
        "services/build.lock",
        "services/orchestrator/requirements.lock",
        "services/sampler/requirements.lock",
        "services/simulator/requirements.lock",
        "services/surrogate/requirements-cpu.lock",
        "services/surrogate/requirements-cuda.lock",
    ]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_has_one_version_and_hashes(lock: str) -> None:
    assert len(pins(lock)) == len(entries(lock)) > 0
    for entry in entries(lock):
        assert re.fullmatch(r"[A-Za-z0-9._-]+==\S+(\s+--hash=sha256:[0-9a-f]{64})+", entry), entry[:80]


@pytest.mark.parametrize("lock", LOCKS)
def test_the_versions_are_those_that_are_tested(lock: str) -> None:
    tested = pins("requirements.txt")
    # Of PyTorch and CUDA the Makefile installs the version that the surrogate asks for, and what comes with it.
    cuda = re.compile(r"torch|triton|nvidia-.*|cuda-.*")
    locked = {name: version for name, version in pins(lock).items() if not cuda.fullmatch(name)}
    assert locked == {name: tested.get(name, "missing in requirements.txt") for name in locked}


def test_torch_is_the_one_that_the_surrogate_asks_for() -> None:
    (asked,) = re.findall(r'"torch==([\d.]+)"', (ROOT / "services/surrogate/pyproject.toml").read_text())
    assert pins("services/surrogate/requirements-cuda.lock")["torch"] == asked
    assert re.findall(r"^ARG TORCH=torch==(.*)", dockerfile("surrogate"), re.MULTILINE) == [asked]


@pytest.mark.parametrize("prefix", HEAVY)
def test_an_image_holds_only_what_its_service_needs(prefix: str) -> None:
    def holds(lock: str) -> bool:
        return any(name == prefix or (prefix.endswith("-") and name.startswith(prefix)) for name in pins(lock))

    holding = {lock.removeprefix("services/").removesuffix(".lock") for lock in LOCKS if holds(lock)}
    assert holding == HEAVY[prefix]


def test_what_one_variant_of_the_surrogate_has_the_other_has_too() -> None:
    cpu, cuda = (pins(f"services/surrogate/requirements-{variant}.lock") for variant in ("cpu", "cuda"))
    assert cpu.items() <= cuda.items()


@pytest.mark.parametrize("service", SERVICES)
def test_hadolint_has_nothing_to_say(service: str) -> None:
    command = [Path(sys.executable).parent / "hadolint", ROOT / "services" / service / "Dockerfile"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


@pytest.mark.parametrize("kind", SETTINGS, ids=SERVICES)
def test_an_image_is_set_up_as_its_service_is(kind: type[ServiceSettings]) -> None:
    text = dockerfile(kind.section)
    port = PORTS[kind.section]
    variables = re.findall(rf"CALIGO_{kind.section.upper()}_(\w+)=(\S+)", text)
    assert {name.lower() for name, _ in variables} <= set(kind.model_fields)
    assert dict(variables)["ADDRESS"] == f"0.0.0.0:{port}"
    assert f"EXPOSE {port} 9464\n" in text
    assert f'org.opencontainers.image.version="{__version__}"' in text
    assert f'CMD ["python", "-m", "caligo.health", "{kind.section}"]' in text
    assert text.endswith(f'ENTRYPOINT ["python", "-m", "caligo_{kind.section}"]\n')
    assert re.findall(r"^USER (.*)", text, re.MULTILINE) == ["10001:10001"]


def test_a_directory_of_keops_that_cannot_be_written_is_named() -> None:
    """The CUDA image has one beside a read-only file system; a volume belongs there."""
    ended = subprocess.run(
        [sys.executable, "-m", "caligo_surrogate"],
        env={**os.environ, "KEOPS_CACHE_FOLDER": "/proc/keops"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(
        r"caligo surrogate: KEOPS_CACHE_FOLDER: /proc/keops\S*: No such file or directory\n", ended.stderr
    )


@pytest.mark.parametrize("service", SERVICES)
def test_only_what_images_need_is_copied_into_them(service: str) -> None:
    """The context holds every source that a Dockerfile names: each is behind a `!` of .dockerignore."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile(service), re.MULTILINE)
    sources = {source.split("/")[0].rstrip("*") for line in copied for source in line.split()}
    assert sources == allowed
