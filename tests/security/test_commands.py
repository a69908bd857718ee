"""`caligo token`, `caligo certificates`, and the options with which remote commands reach a guarded orchestrator."""

from __future__ import annotations

import datetime
import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from caligo import rpc
from caligo.cli import main
from caligo.tls import Tls
from caligo.tokens import Role, Tokens

Orchestrate = Callable[..., Any]
Caligo = Callable[..., tuple[int, str, str]]


@pytest.fixture
def caligo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Caligo:
    """Runs a command: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["caligo", *map(str, arguments)])
        code = main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_token_is_made_listed_and_revoked(caligo: Caligo, tmp_path: Path) -> None:
    data = ("--data-directory", tmp_path / "data")
    code, out, _ = caligo("token", "create", "dashboard", "--role", "read", "--owner", "alice", *data)
    token = out.strip()
    assert code == 0 and token.startswith("caligo_") and "\n" not in token
    code, out, _ = caligo("token", "create", "root", "--role", "admin", *data, "--json")
    assert code == 0 and json.loads(out)["owner"] == "root"
    code, out, _ = caligo("token", "list", *data)
    assert code == 0 and token not in out and all(word in out for word in ("dashboard", "alice", "read", token[-4:]))
    assert caligo("token", "revoke", "dashboard", *data)[0] == 0
    code, out, _ = caligo("token", "list", *data, "--json")
    first, second = (json.loads(line) for line in out.splitlines())
    assert first["revoke_time"] and second["revoke_time"] is None
    with Tokens(tmp_path / "data") as tokens:
        assert tokens.find(token) is None


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["create", "x", "--role", "boss"], 2, "--role: must be one of read, submit, admin"),
        (["create", "a/b"], 2, "name: 1 to 63"),
        (["create", "there"], 4, "there: there is a token of that name"),
        (["revoke", "nobody"], 4, "nobody: no such token"),
        (["list", "--data-directory", "elsewhere"], 4, "elsewhere: no orchestrator's data directory"),
    ],
)
def test_mistakes_get_a_line(caligo: Caligo, arguments: list[str], code: int, words: str) -> None:
    assert caligo("token", "create", "there")[0] == 0
    got, _, error = caligo("token", *arguments)
    assert got == code and words in error and error.count("\n") == 1


def test_commands_send_the_token_they_are_given(
    caligo: Caligo, orchestrate: Orchestrate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    orchestrator = orchestrate()
    name = orchestrator.create(orchestrator.client("laptop", owner="alice"))
    monkeypatch.setenv("CALIGO_ADDRESS", orchestrator.address)
    code, _, error = caligo("show", name)
    assert code == 6 and "token is required" in error
    (tmp_path / "token").write_text(orchestrator.token("file", Role.READ, "alice") + "\n")
    assert caligo("show", name, "--token-file", tmp_path / "token")[0] == 0
    code, _, error = caligo("pause", name, "--token-file", tmp_path / "token")
    assert code == 6 and "PauseCampaign takes submit" in error
    monkeypatch.setenv("CALIGO_TOKEN", orchestrator.token("variable", Role.SUBMIT, "alice"))
    code, out, _ = caligo("pause", name, "--token-file", tmp_path / "token")
    assert code == 0 and "paused" in out
    monkeypatch.setenv("CALIGO_TOKEN", orchestrator.token("bob", Role.SUBMIT))
    assert caligo("show", name)[0] == 4
    code, _, error = caligo("show", name, "--address", "gpu-box:50050")
    assert code == 2 and "in the clear" in error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--certificate", "c.pem"], "--certificate: needs --ca-certificate"),
        (["--server-name", "x"], "--server-name: needs --ca-certificate"),
        (["--ca-certificate", "nothing.pem"], "--ca-certificate: nothing.pem: No such file"),
        (["--token-file", "nothing"], "--token-file: nothing: No such file"),
    ],
)
def test_options_of_a_connection_are_checked(caligo: Caligo, options: list[str], words: str) -> None:
    code, _, error = caligo("list", *options)
    assert code == 2 and words in error


def test_certificates_that_are_made_can_be_used(caligo: Caligo, tmp_path: Path) -> None:
    assert caligo("certificates", "tls", "--host", "localhost,127.0.0.1", "--host", "cli")[0] == 0
    tls = tmp_path / "tls"
    assert {path.name for path in tls.iterdir()} == {
        *("ca.pem", "ca-key.pem", "localhost.pem", "localhost-key.pem", "cli.pem", "cli-key.pem")
    }
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in tls.glob("*-key.pem"))
    server = rpc.Server("127.0.0.1:0", [], tls=Tls(tls / "ca.pem", tls / "localhost.pem", tls / "localhost-key.pem"))
    server.start()
    options = [
        *("--address", server.address),
        *("--ca-certificate", tls / "ca.pem", "--certificate", tls / "cli.pem", "--key", tls / "cli-key.pem"),
    ]
    code, _, error = caligo("list", *options)
    assert code == 2 and "Method not found" in error  # understood, by a server without campaigns
    # Renewed by the same authority: clients go on trusting it.
    authority, certificate = (tls / "ca.pem").read_bytes(), (tls / "localhost.pem").read_bytes()
    assert caligo("certificates", "tls", "--host", "localhost,127.0.0.1", "--renew")[0] == 0
    assert (tls / "ca.pem").read_bytes() == authority and (tls / "localhost.pem").read_bytes() != certificate
    assert "Method not found" in caligo("list", *options)[2]
    server.stop(0)


def test_good_certificates_are_kept(caligo: Caligo, tmp_path: Path) -> None:
    def make(*hosts: str) -> list[str]:
        options = [option for host in hosts for option in ("--host", host)]
        code, out, error = caligo("certificates", "tls", "--authority", "authority", "--json", *options)
        assert code == 0, error
        return sorted(json.loads(out)["files"])

    made = ["authority/ca-key.pem", "authority/ca.pem", "tls/a-key.pem", "tls/a.pem", "tls/ca.pem"]
    assert make("a,localhost") == made
    assert make("a,localhost") == []
    assert make("a") == []
    assert make("a", "b") == ["tls/b-key.pem", "tls/b.pem"]
    assert make("a,elsewhere", "b") == ["tls/a-key.pem", "tls/a.pem"]
    (tmp_path / "tls" / "a-key.pem").unlink()
    assert make("a,elsewhere", "b") == ["tls/a-key.pem", "tls/a.pem"]
    ends_soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=29)
    ca = trustme.CA.from_pem(*((tmp_path / "authority" / name).read_bytes() for name in ("ca.pem", "ca-key.pem")))
    ca.issue_cert("b", not_after=ends_soon).cert_chain_pems[0].write_to_path(tmp_path / "tls" / "b.pem")
    assert make("a,elsewhere", "b") == ["tls/b-key.pem", "tls/b.pem"]


def test_certificates_apart_know_no_key_but_their_own(caligo: Caligo, tmp_path: Path) -> None:
    options = ("certificates", "tls", "--authority", "authority", "--apart", "--host", "a,localhost", "--host", "b")
    assert caligo(*options)[0] == 0
    for name in ("a", "b"):
        files = {path.name for path in (tmp_path / "tls" / name).iterdir()}
        assert files == {"ca.pem", f"{name}.pem", f"{name}-key.pem"}
        Tls(*(tmp_path / "tls" / name / file for file in ("ca.pem", f"{name}.pem", f"{name}-key.pem")))
    assert {path.name for path in (tmp_path / "tls").iterdir()} == {"a", "b"}
    assert json.loads(caligo(*options, "--json")[1])["files"] == []


def test_certificates_of_another_authority_are_not_overwritten(caligo: Caligo, tmp_path: Path) -> None:
    assert caligo("certificates", "tls", "--host", "a")[0] == 0
    (tmp_path / "tls" / "ca-key.pem").unlink()
    assert caligo("certificates", "tls", "--host", "a")[0] == 0
    before = (tmp_path / "tls" / "a.pem").read_bytes()
    code, _, error = caligo("certificates", "tls", "--host", "a,more")
    assert code == 2 and "a.pem is missing, lacks a name or ends soon" in error
    # With an authority elsewhere these are somebody's own, who knows what they are good for.
    code, out, _ = caligo("certificates", "tls", "--host", "a,more", "--authority", "authority", "--json")
    assert code == 0 and json.loads(out)["files"] == [] and not (tmp_path / "authority").exists()
    assert caligo("certificates", "other", "--authority", "authority")[0] == 0
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "ca.pem").write_bytes((tmp_path / "authority" / "ca.pem").read_bytes())
    code, _, error = caligo("certificates", "fresh", "--authority", "half")
    assert code == 2 and "the key of half/ca.pem is not in half" in error
    code, _, error = caligo("certificates", "tls", "--host", "a,more", "--authority", "authority")
    assert code == 2 and "is not the authority in authority" in error
    (tmp_path / "tls" / "b.pem").write_text("no certificate")
    (tmp_path / "tls" / "b-key.pem").write_text("no key")
    code, _, error = caligo("certificates", "tls", "--host", "b")
    assert code == 2 and "tls/b.pem: must be a certificate" in error
    assert (tmp_path / "tls" / "a.pem").read_bytes() == before


def test_an_authority_without_its_key_is_not_overwritten(caligo: Caligo, tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "ca.pem").write_text("ours")
    code, _, error = caligo("certificates", "tls")
    assert (
        code == 2
        and "the key of tls/ca.pem is not in tls" in error
        and (tmp_path / "tls" / "ca.pem").read_text() == "ours"
    )
    for wrong in ("a,,b", "../x", "bad name"):
        assert caligo("certificates", "other", "--host", wrong)[0] == 2
