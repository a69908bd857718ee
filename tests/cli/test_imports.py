"""Commands that a person waits for, and the client, load what they use and nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "h5py", "jinja2", "matplotlib", "numba", "numpy", "opentelemetry", "pandas", "prometheus_client", "pydantic",
    "pydantic_settings", "ruamel", "scipy", "structlog", "torch", "trustme", "yaml", "grpc",
}  # fmt: skip
"""What takes more than a few milliseconds to load. Typer itself brings pydantic."""
OURS_UNUSED = {
    "caligo.cli.report", "caligo.cli.figures", "caligo.cli.run", "caligo.cli.rows", "caligo.dataset", "caligo.exports",
    "caligo.settings", "caligo.tokens", "caligo.yaml12",
}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "used"),
    [
        (["--help"], 0, set()),
        (["--version"], 0, set()),
        (["run", "--help"], 0, {"pydantic"}),
        (["frobnicate"], 2, {"pydantic"}),
        (["list", "--address", "unix:nobody"], 3, {"grpc", "numpy", "pydantic"}),
        (["show", "x", "--address", "unix:nobody"], 3, {"grpc", "numpy", "pydantic"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_nothing_is_loaded_for_nothing(arguments: list[str], code: int, used: set[str]) -> None:
    program = (
        "import sys\n"
        f"sys.argv = {['caligo', *arguments]!r}\n"
        "from caligo.cli import main\n"
        "code = main()\n"
        "sys.stdout.flush()\n"
        "print('\\n', code, *sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    ended_with, *loaded = ended.stdout.splitlines()[-1].split()
    assert int(ended_with) == code, ended.stderr
    assert HEAVY & {name.partition(".")[0] for name in loaded} == used
    assert not OURS_UNUSED & set(loaded)


def test_the_client_loads_no_files_no_pictures_and_no_science() -> None:
    program = "import sys, caligo.client, caligo.spec; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in ended.stdout.split()}
    assert {"grpc", "numpy", "pydantic"} <= loaded
    assert not {"h5py", "jinja2", "matplotlib", "numba", "pandas", "pyarrow", "scipy", "torch", "xarray"} & loaded
