"""The reference pages, made from what they describe: models, descriptors, registries, `--help`."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import griffe
from caligo_orchestrator.farm.base import FarmStats
from caligo_orchestrator.metrics import Standing
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet
from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel

from caligo import results, space
from caligo.errors import CaligoError
from caligo.settings import ServiceSettings
from caligo.spec import CampaignSpec
from tools import tables

ROOT: Final = Path(__file__).parents[1]


def pages(modules: Iterable[str]) -> dict[str, str]:
    """Every page that is made: its address in the site, and its Markdown.

    Args:
        modules: of `caligo`, for the reference of Python.

    Raises:
        ValueError: a public class, method or function of theirs has no docstring.
    """
    return {
        **{f"reference/python/{name}.md": module(name) for name in modules},
        "reference/cli.md": cli(),
        "reference/protos.md": protos(),
        "reference/spec.md": spec(),
        "reference/settings.md": settings(),
        "reference/file.md": file(),
        "reference/codes.md": codes(),
        "reference/metrics.md": metrics(),
    }


# --- Python -----------------------------------------------------------------------------------------------------------


def module(name: str) -> str:
    """A page for mkdocstrings to fill."""
    silent = [one for one in _public(_PACKAGE[name]) if not one.docstring]
    if silent:
        named = ", ".join(f"{one.relative_filepath}:{one.lineno} {one.name}" for one in silent)
        raise ValueError(f"no docstring: {named}")
    return f"# caligo.{name}\n\n::: caligo.{name}\n    options: {{show_root_heading: false}}\n"


def _public(parent: griffe.Object) -> Iterator[griffe.Object | griffe.Alias]:
    """Classes, functions and methods that are for users: all that `__all__` names, or all that is defined there."""
    for member in parent.members.values():
        named = member.name in parent.exports if parent.exports else not member.is_alias
        if named and not member.name.startswith("_"):
            if member.is_class:
                yield member
                yield from _public(member.final_target if member.is_alias else member)
            elif member.is_function:
                yield member


_PACKAGE: Final = griffe.load("caligo", search_paths=[ROOT], resolve_aliases=True)


# --- commands ---------------------------------------------------------------------------------------------------------


def cli() -> str:
    """Every command as `--help` explains it."""
    made = subprocess.run(
        [sys.executable, "-m", "typer", "caligo.cli.app", "utils", "docs", "--name", "caligo", "--title", "Commands"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return made.stdout


# --- the spec, and the settings of services ---------------------------------------------------------------------------


def spec() -> str:
    """Every key of a spec, a heading a section."""
    text = "# Spec\n\nWhat a campaign's YAML may hold. `caligo schema` prints the same as a JSON schema.\n\n"
    return _from_below(text + "\n".join(_section(CampaignSpec, "")) + "\n")


def _section(model: type[BaseModel], prefix: str) -> Iterator[str]:
    schemas = model.model_json_schema()["properties"]
    below = []
    yield f"## {f'`{prefix}`' if prefix else 'Top level'}\n\n{inspect.getdoc(model) or ''}\n"
    yield from _HEAD
    for name, field in model.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            below.append((field.annotation, f"{prefix}.{name}".removeprefix(".")))
        else:
            yield tables.row(name, schemas[name], field)
    yield ""
    for kind, path in below:
        yield from _section(kind, path)


_HEAD: Final = ("| key | default | allowed | meaning |", "|--|--|--|--|")


def settings() -> str:
    """Every setting of every service."""
    lines = [
        "# Settings of the services",
        "",
        "A flag (`--log-level`) beats the variable (`CALIGO_SAMPLER_LOG_LEVEL`), which beats the line of the file that",
        "`CALIGO_CONFIG` names (`sampler: {log_level: ...}`), which beats the default.",
        "",
        *_settings("Every service", ServiceSettings, frozenset()),
    ]
    for service, kind in tables.SETTINGS.items():
        lines += _settings(service.capitalize(), kind, frozenset(ServiceSettings.model_fields))
    return _from_below("\n".join(lines) + "\n")


def _from_below(text: str) -> str:
    """Links to documents, from a page of reference/."""
    return re.sub(r"\]\((\w+\.md)", r"](../\1", text)


def _settings(title: str, kind: type[BaseModel], elsewhere: frozenset[str]) -> Iterator[str]:
    schemas = kind.model_json_schema()["properties"]
    yield from (f"## {title}", "", *_HEAD)
    for name, field in kind.model_fields.items():
        if name not in elsewhere or field.get_default() != ServiceSettings.model_fields[name].get_default():
            yield tables.row(name, schemas[name], field)
    yield ""


# --- the file, outcomes, reasons, exit codes --------------------------------------------------------------------------


def file() -> str:
    """The columns of a campaign's file."""
    lines = [
        "# Columns of a campaign's file",
        "",
        "How they lie in HDF5 is told in the [guide](../guide.md#the-file).",
        "",
        "## `inputs`, float32",
        "",
        "| column | parameter | lowest | highest |",
        "|--|--|--|--|",
        *(f"| `{p.column}` | {p.title} ({p.unit}) | {p.lowest:g} | {p.highest:g} |" for p in space.PARAMETERS),
        f"| `{space.COLUMNS[space.STRATEGY_COLUMN]}` | {_choices(space.Strategy)} | | |",
        "",
        "Limits are in physical units, whatever the column's scale.",
    ]
    for title, columns in (("`metrics`, float32", results.METRICS), ("`counts`, int64", results.COUNTS)):
        lines += ["", f"## {title}", "", "| column | unit | meaning |", "|--|--|--|"]
        lines += [f"| `{name}` | {unit} | {results.DESCRIPTIONS[name]} |" for name, unit in columns]
    return "\n".join(lines) + "\n"


def _choices(codes: type[Any]) -> str:
    return ", ".join(f"{int(code)} {code.name.lower()}" for code in codes)


def codes() -> str:
    """Outcomes, reasons, and what the command's exit codes mean."""
    said = _attribute_docstrings(results.Reason)
    lines = [
        "# Codes",
        "",
        "## Outcomes of a row",
        "",
        "| code | outcome | meaning |",
        "|--|--|--|",
        *_enum("Outcome"),
        "",
        "## Reasons",
        "",
        "| code | reason | meaning |",
        "|--|--|--|",
        *(f"| {int(reason)} | `{reason.name.lower()}` | {said.get(reason.name, '')} |" for reason in results.Reason),
        "",
        "## Errors and exit codes",
        "",
        "What a call raises, as which gRPC status it travels, and with which code the command ends. 0 is done, 1 that",
        "nobody reads the output, 130 an interruption.",
        "",
        "| exit code | error | status | meaning |",
        "|--|--|--|--|",
        *(
            f"| {kind.exit_code} | `{kind.__name__}` | `{kind.status}` | {_first_line(kind)} |"
            for kind in sorted(CaligoError.__subclasses__(), key=lambda kind: kind.exit_code)
        ),
    ]
    return "\n".join(lines) + "\n"


def _enum(name: str) -> Iterator[str]:
    for file in _descriptors().file:
        for path, kind in enumerate(file.enum_type):
            if kind.name == name:
                said = _comments(file)
                for j, value in enumerate(kind.value):
                    if value.number:
                        short = value.name.removeprefix(f"{name.upper()}_").lower()
                        yield f"| {value.number} | `{short}` | {said.get((5, path, 2, j), '')} |"


def _first_line(kind: type) -> str:
    return (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")


def _attribute_docstrings(kind: type) -> dict[str, str]:
    """The strings below the attributes of a class, which Python itself forgets."""
    members = _PACKAGE[f"{kind.__module__}.{kind.__qualname__}".removeprefix("caligo.")].members
    return {name: " ".join(m.docstring.value.split()) for name, m in members.items() if m.docstring}


# --- the contract -----------------------------------------------------------------------------------------------------


def _descriptors() -> FileDescriptorSet:
    with tempfile.NamedTemporaryFile() as compiled:
        subprocess.run(
            [
                sys.executable, "-m", "grpc_tools.protoc", "-I", "protos", "--include_source_info",
                f"--descriptor_set_out={compiled.name}",
                *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "protos").rglob("*.proto"))),
            ],
            check=True, cwd=ROOT,
        )  # fmt: skip
        return FileDescriptorSet.FromString(Path(compiled.name).read_bytes())


def _comments(file: Any) -> dict[tuple[int, ...], str]:
    """What is said above each element, by its path in the descriptor; the file's own by that of its syntax."""
    said = {}
    for location in file.source_code_info.location:
        text = location.leading_comments or location.trailing_comments
        if text:
            said[tuple(location.path)] = " ".join(text.split()).replace("|", "\\|")
    return said


def protos() -> str:
    """Services, messages and enums of the contract, from its comments."""
    lines = ["# Protos", "", "The contract `caligo.v1`, as `protos/` says it. gRPC, protocol buffers 3."]
    for file in _descriptors().file:
        said = _comments(file)
        lines += ["", f"## {file.name}", "", said.get((12,), "")]
        for i, service in enumerate(file.service):
            lines += ["", f"### service {service.name}", "", said.get((6, i), "")]
            lines += ["", "| method | takes | answers | |", "|--|--|--|--|"]
            for j, method in enumerate(service.method):
                takes = _streamed(method.input_type, method.client_streaming)
                answers = _streamed(method.output_type, method.server_streaming)
                lines.append(f"| `{method.name}` | {takes} | {answers} | {said.get((6, i, 2, j), '')} |")
        for i, message in enumerate(file.message_type):
            lines += _message(message, (4, i), said)
        for i, kind in enumerate(file.enum_type):
            lines += ["", f"### enum {kind.name}", "", said.get((5, i), ""), "", "| number | name | |", "|--|--|--|"]
            lines += [f"| {v.number} | `{v.name}` | {said.get((5, i, 2, j), '')} |" for j, v in enumerate(kind.value)]
    return "\n".join(lines) + "\n"


def _message(message: Any, path: tuple[int, ...], said: dict[tuple[int, ...], str]) -> Iterator[str]:
    maps = {kind.name: kind for kind in message.nested_type if kind.options.map_entry}
    yield from ("", f"### message {message.name}", "", said.get(path, ""), "")
    if message.field:
        yield from ("| number | field | type | |", "|--|--|--|--|")
    for j, field in enumerate(message.field):
        remark = said.get((*path, 2, j), "")
        if field.options.deprecated:
            remark = f"*Deprecated.* {remark}"
        yield f"| {field.number} | `{field.name}` | {_type(field, maps)} | {remark} |"
    for j, kind in enumerate(message.nested_type):
        if kind.name not in maps:
            yield from _message(kind, (*path, 3, j), said)


def _type(field: Any, maps: dict[str, Any]) -> str:
    name = field.type_name.rpartition(".")[2]
    if name in maps:
        key, value = maps[name].field
        return f"map of {_type(key, {})} to {_type(value, {})}"
    plain = _link(field.type_name) if field.type_name else FieldDescriptorProto.Type.Name(field.type)[5:].lower()
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {plain}"
    return f"optional {plain}" if field.proto3_optional else plain


def _streamed(type_name: str, streaming: bool) -> str:
    return f"{'stream of ' if streaming else ''}{_link(type_name)}"


def _link(type_name: str) -> str:
    name = type_name.rpartition(".")[2]
    if not type_name.startswith(".caligo."):
        return f"`{type_name.lstrip('.')}`"
    return f"[{name}](#{'enum' if name in _enum_names() else 'message'}-{name.lower()})"


def _enum_names() -> frozenset[str]:
    from caligo.v1 import campaign_pb2, sampler_pb2, simulator_pb2, surrogate_pb2, types_pb2

    files = (campaign_pb2, sampler_pb2, simulator_pb2, surrogate_pb2, types_pb2)
    return frozenset(name for file in files for name in file.DESCRIPTOR.enum_types_by_name)


# --- metrics ----------------------------------------------------------------------------------------------------------


def metrics() -> str:
    """Every metric that a service shows, with its labels."""
    modules = {"Every service": "caligo.instrumentation", **{s.capitalize(): f"caligo_{s}.metrics" for s in _SERVICES}}
    lines = [
        "# Metrics",
        "",
        "For Prometheus, where `metrics_address` says; [observability](../observability.md) has what to do with them.",
    ]
    for title, module in modules.items():
        lines += ["", f"## {title}", "", "| metric | type | labels | meaning |", "|--|--|--|--|"]
        held = vars(importlib.import_module(module)).values()
        lines += [_metric(one) for one in held if isinstance(one, MetricWrapperBase)]
        if title == "Orchestrator":
            lines += [_family(family, family._labelnames) for family in _standing().collect()]
    return "\n".join(lines) + "\n"


def _metric(metric: Any) -> str:
    (family,) = metric.describe()
    return _family(family, metric._labelnames)


def _family(family: Metric, labels: Sequence[str]) -> str:
    name = {"counter": f"{family.name}_total", "info": f"{family.name}_info"}.get(family.type, family.name)
    return f"| `{name}` | {family.type} | {', '.join(labels)} | {family.documentation} |"


def _standing() -> Standing:
    """The metrics that the orchestrator computes when it is asked, of an orchestrator without campaigns."""
    farm = SimpleNamespace(stats=lambda: FarmStats(*[0] * len(dataclasses.fields(FarmStats))))
    return Standing(SimpleNamespace(states=dict), farm, list)


_SERVICES: Final = ("orchestrator", "simulator", "surrogate", "sampler")
