"""What is set wrong ends a container at once, with one line that says what is allowed and exit code 2."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

READ_ONLY = ("--read-only", "--tmpfs", "/tmp", "--network", "none")
PRIVATE = "unix:/tmp/socket"


def start(service: str, *options: str, **settings: str) -> tuple[int, list[str]]:
    """Run a service's container to its end: exit code and what it said."""
    environment = [f"--env=CALIGO_{service.upper()}_{name.upper()}={value}" for name, value in settings.items()]
    command = ["docker", "run", "--rm", "--init", *READ_ONLY, *environment, *options, f"caligo/{service}:0.2.0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return ended.returncode, (ended.stdout + ended.stderr).splitlines()


def refused(service: str, *options: str, **settings: str) -> str:
    code, lines = start(service, *options, **settings)
    assert code == 2, lines
    (line,) = (line for line in lines if line.startswith(f"caligo {service}: "))
    assert not any("Traceback" in line for line in lines)
    return line.removeprefix(f"caligo {service}: ")


@pytest.mark.parametrize("service", ["sampler", "simulator", "surrogate", "orchestrator"])
def test_a_setting_that_does_not_exist(images: None, service: str) -> None:
    name = f"CALIGO_{service.upper()}_WORKRS"
    assert refused(service, workrs="3") == f"{name}: no such setting"


@pytest.mark.parametrize("service", ["sampler", "simulator", "surrogate", "orchestrator"])
def test_neither_certificate_nor_insecure(images: None, service: str) -> None:
    assert "set tls_certificate and tls_key, or set insecure" in refused(service)


@pytest.mark.parametrize("service", ["sampler", "simulator", "surrogate", "orchestrator"])
def test_a_wrong_certificate(images: None, service: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "a.pem").write_text("not a certificate")
    mount = f"--volume={tmp_path}:/tls:ro"
    said = refused(service, mount, tls_certificate="/tls/a.pem", tls_key="/tls/a.pem")
    assert said.startswith("tls_certificate: /tls/a.pem")
    assert refused(service, mount, tls_certificate="/tls/b.pem", tls_key="/tls/a.pem").startswith("tls_certificate: ")


def test_a_port_in_use(images: None) -> None:
    said = refused("sampler", address="127.0.0.1:50051", metrics_address="127.0.0.1:50051")
    assert said == "address: 127.0.0.1:50051 cannot be bound; is it in use?"


def test_a_dev_shm_too_small_for_the_arena(images: None) -> None:
    said = refused("simulator", "--shm-size=64m", address=PRIVATE, workers="16")
    assert said.startswith("/dev/shm: must have 129 MiB free") and said.endswith("set its shm_size to 129m or more")


def test_no_gpu_where_one_is_required(images: None) -> None:
    assert refused("surrogate", address=PRIVATE, device="cuda") == "device: no CUDA device here; use auto or cpu"


def test_a_data_directory_that_cannot_be_written(images: None, tmp_path: Path) -> None:
    said = refused("orchestrator", f"--volume={tmp_path}:/data:ro", address=PRIVATE, data_directory="/data")
    assert said.startswith("data_directory: /data")
    (tmp_path / "theirs").mkdir(mode=0o755)
    said = refused("orchestrator", f"--volume={tmp_path}/theirs:/data", address=PRIVATE, data_directory="/data")
    assert said.startswith("data_directory: /data")


def test_a_full_volume(images: None) -> None:
    said = refused("orchestrator", "--tmpfs=/data:size=4k,uid=10001", address=PRIVATE, data_directory="/data")
    assert said.startswith("data_directory: /data") and "full" in said
