"""Where metrics and traces go is checked before anything is served."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import trustme

from caligo import telemetry, tracing
from caligo.errors import InvalidArgument
from caligo.settings import ServiceSettings


class Settings(ServiceSettings, section="test"):
    """What every service has."""


def refusal(**settings: object) -> str:
    with pytest.raises(InvalidArgument) as refused, telemetry.serving(Settings(**settings)):
        pass
    return str(refused.value)


@pytest.mark.parametrize("field", ["metrics_address", "traces_endpoint"])
@pytest.mark.parametrize(
    "address", ["nonsense", ":9090", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:x", "unix:/tmp/x"]
)
def test_an_address_is_a_host_and_a_port(field, address) -> None:
    assert refusal(**{field: address}).startswith(f"{field}: must be HOST:PORT")


@pytest.mark.parametrize("field", ["metrics_address", "traces_endpoint"])
def test_what_other_machines_can_see_is_encrypted_or_said_to_be_insecure(field) -> None:
    assert "set insecure" in refusal(**{field: "10.0.0.1:9090"})
    assert "set insecure" in refusal(**{field: "0.0.0.0:9090"})


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert refusal(metrics_address=address) == f"metrics_address: {address}: Address already in use"


def test_nothing_listens_and_nothing_is_traced_by_default() -> None:
    settings = Settings()
    assert (settings.metrics_address, settings.traces_endpoint, settings.traces_share) == ("", "", 1)
    with telemetry.serving(settings):
        assert tracing.active is None


def test_without_the_extra_a_service_runs_and_says_what_it_lacks(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    assert "pip install 'caligo[telemetry]'" in refusal(traces_endpoint="127.0.0.1:4317")
    with telemetry.serving(Settings(metrics_address="127.0.0.1:0")):
        pass


def test_services_do_not_load_the_sdk_unless_they_trace() -> None:
    script = (
        "import sys, caligo.rpc, caligo.telemetry, caligo.instrumentation, caligo_orchestrator.api.server\n"
        "assert not [name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_client_loads_none_of_it() -> None:
    script = (
        "import sys, caligo.client\n"
        "assert not [name for name in sys.modules if name.startswith(('opentelemetry', 'prometheus_client'))]"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_metrics_are_encrypted_where_the_service_is(tmp_path: Path) -> None:
    authority = trustme.CA()
    own, reader = authority.issue_cert("localhost"), authority.issue_cert("prometheus")
    for name, blob in (
        ("ca.pem", authority.cert_pem),
        ("certificate.pem", own.cert_chain_pems[0]),
        ("key.pem", own.private_key_pem),
        ("reader.pem", reader.private_key_and_cert_chain_pem),
    ):
        blob.write_to_path(tmp_path / name)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = Settings(
        metrics_address=f"0.0.0.0:{port}",
        tls_certificate=tmp_path / "certificate.pem",
        tls_key=tmp_path / "key.pem",
        tls_client_ca=tmp_path / "ca.pem",
    )
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    with telemetry.serving(settings):
        with pytest.raises((ssl.SSLError, OSError)):  # it does not say who it is
            urllib.request.urlopen(f"https://localhost:{port}/metrics", timeout=10, context=context).read()
        context.load_cert_chain(tmp_path / "reader.pem")
        with urllib.request.urlopen(f"https://localhost:{port}/metrics", timeout=10, context=context) as answer:
            assert b'caligo_build_info{service="test"' in answer.read()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
