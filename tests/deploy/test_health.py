"""`python -m caligo.health` against servers of every kind of address and encryption, and against none."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from caligo_sampler.settings import SamplerSettings

from caligo import health, rpc
from caligo.cli.certificates import make_certificates
from caligo.settings import SECTIONS

Listen = Callable[..., rpc.Server]
TLS = ("tls_certificate", "tls_key")


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, Path]:
    """Files of the sampler and of somebody else, by the setting that takes them; `other_` those of the latter."""
    directory = tmp_path / "tls"
    make_certificates(directory, ["sampler,localhost", "other,localhost"])
    return {
        "tls_client_ca": directory / "ca.pem",
        "tls_certificate": directory / "sampler.pem",
        "tls_key": directory / "sampler-key.pem",
        "other_certificate": directory / "other.pem",
        "other_key": directory / "other-key.pem",
    }


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listen]:
    """`listen(address, **settings)` starts a server as a sampler would, and sets the environment accordingly."""
    servers: list[rpc.Server] = []

    def listen(address: str, **settings: object) -> rpc.Server:
        made = SamplerSettings(address=address, **settings)
        server = rpc.Server(made.address, [], tls=made.tls(), insecure=made.insecure)
        server.start()
        servers.append(server)
        for name, value in {**settings, "address": server.address}.items():
            monkeypatch.setenv(f"CALIGO_SAMPLER_{name.upper()}", str(value))
        return server

    yield listen
    for server in servers:
        server.stop(0)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "127.0.0.1", "localhost"])
def test_without_encryption(listen: Listen, host: str) -> None:
    listen(f"{host}:0", insecure=True)
    assert health.main(["sampler"]) == 0


def test_at_a_unix_socket(listen: Listen, tmp_path: Path) -> None:
    listen(f"unix:{tmp_path}/s")
    assert health.main(["sampler"]) == 0


@pytest.mark.parametrize("fields", [TLS, (*TLS, "tls_client_ca")], ids=["tls", "mutual"])
def test_with_encryption(listen: Listen, certificates: dict[str, Path], fields: tuple[str, ...]) -> None:
    listen("0.0.0.0:0", **{field: certificates[field] for field in fields})
    assert health.main(["sampler"]) == 0


def test_a_service_that_goes_away_does_not_serve(listen: Listen, capsys: pytest.CaptureFixture[str]) -> None:
    server = listen("127.0.0.1:0")
    server.refuse()
    assert health.main(["sampler"]) == 1
    assert capsys.readouterr().err == f"caligo sampler: {server.address}: NOT_SERVING\n"


def test_nobody_there(listen: Listen, capsys: pytest.CaptureFixture[str]) -> None:
    server = listen("127.0.0.1:0")
    server.stop(0)
    assert health.main(["sampler"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"caligo sampler: {server.address}: nobody answers") and said.count("\n") == 1


def test_a_server_that_does_not_answer_in_time(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("CALIGO_SAMPLER_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        assert health.main(["sampler", "--seconds", "0.3"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_another_server_in_its_place_is_not_the_service(
    listen: Listen, certificates: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listen("0.0.0.0:0", **{field: certificates[field.replace("tls", "other")] for field in TLS})
    assert health.main(["sampler"]) == 0
    for field in TLS:
        monkeypatch.setenv(f"CALIGO_SAMPLER_{field.upper()}", str(certificates[field]))
    assert health.main(["sampler"]) == 1
    assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().err


def test_settings_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CALIGO_SAMPLER_TLS_CERTIFICATE", "/does/not/exist.pem")
    monkeypatch.setenv("CALIGO_SAMPLER_TLS_KEY", "/does/not/exist-key.pem")
    assert health.main(["sampler"]) == 2
    assert capsys.readouterr().err == (
        "caligo sampler: tls_certificate: /does/not/exist.pem: No such file or directory\n"
    )


@pytest.mark.parametrize("service", SECTIONS)
def test_every_service_has_its_own_settings(
    service: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv(f"CALIGO_{service.upper()}_ADDRESS", f"unix:{tmp_path}/{service}")
    assert health.main([service]) == 1
    assert f"unix:{tmp_path}/{service}" in capsys.readouterr().err
    monkeypatch.setenv(f"CALIGO_{service.upper()}_COLOUR", "red")
    assert health.main([service]) == 2


def test_it_is_a_program(listen: Listen) -> None:
    listen("127.0.0.1:0")
    command = [sys.executable, "-m", "caligo.health", "sampler"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    ended = subprocess.run([*command[:-1], "kettle"], capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2 and "invalid choice: 'kettle'" in ended.stderr
