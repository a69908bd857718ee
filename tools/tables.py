"""Everything that repeats a setting: made from the models, so that a setting is edited in one place.

    python -m tools.tables          # write them
    python -m tools.tables --check  # say which are not as they would be written, and fail

* `deploy/helm/caligo/values.schema.json`: what each service's `settings` may hold;
* `.env`: the settings of the services that it does not set, with their defaults;
* `docs/security.md`: the limits of a client;
* `docs/guide.md`: the keys of a spec;
* `docs/glossary.md`: the parameters of the space.

Names, defaults, ranges and sentences are the models' own (`ServiceSettings`, `CampaignSpec`, `PARAMETERS`). Generated
parts of a document lie between two marks.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_sampler.settings import SamplerSettings
from caligo_simulator.settings import SimulatorSettings
from caligo_surrogate.settings import SurrogateSettings
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from caligo.settings import ServiceSettings
from caligo.space import PARAMETERS, PRESETS, Strategy
from caligo.spec import CampaignSpec

ROOT: Final = Path(__file__).parents[1]
SCHEMA: Final = Path("deploy/helm/caligo/values.schema.json")
SETTINGS: Final[dict[str, type[ServiceSettings]]] = {
    kind.section: kind for kind in (SamplerSettings, SimulatorSettings, SurrogateSettings, OrchestratorSettings)
}
ELSEWHERE: Final = frozenset(
    {
        "address", "insecure", "lifeline", "metrics_address", "tls_certificate", "tls_key", "tls_client_ca",
        "data_directory", "sampler", "simulator", "surrogate", "services_ca", "services_certificate", "services_key",
        "services_name", "farm", "scheduler",
    }
)  # fmt: skip
"""Settings that a deployment decides by its own means: addresses, certificates, directories, the kind of farm."""
NOT_IN_CHART: Final = ELSEWHERE | {"grace_seconds", "namespace", "workers", "segment_pairs", "device"}
"""Those that the chart sets from values of its own, or that make no sense there."""
LIMITS: Final = re.compile(r"client_|max_|stall_")
WIDTH: Final = 118


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    outdated = []
    for path, make in FILES.items():
        file = ROOT / path
        before = file.read_text()
        after = make(before)
        if after != before:
            outdated.append(str(path))
            if not arguments.check:
                file.write_text(after)
    if outdated:
        print(f"{'not as the settings say, run make tables' if arguments.check else 'written'}: {', '.join(outdated)}")
    return 1 if arguments.check and outdated else 0


# --- the chart --------------------------------------------------------------------------------------------------------


def schema(text: str) -> str:
    """The chart's schema with the settings of every service."""
    values = json.loads(text)
    for service, kind in SETTINGS.items():
        declared = kind.model_json_schema()["properties"]
        allowed = {name: _bare(declared[name]) for name in declared if name not in NOT_IN_CHART}
        values["properties"][service]["properties"]["settings"]["properties"] = allowed
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _bare(node: Any) -> Any:
    """A schema without what is for people."""
    if isinstance(node, dict):
        return {key: _bare(value) for key, value in node.items() if key not in ("title", "description", "default")}
    return [_bare(value) for value in node] if isinstance(node, list) else node


# --- .env -------------------------------------------------------------------------------------------------------------

_FURTHER: Final = (
    "# Take the sign away to set one. Addresses, certificates and directories are set by docker-compose.yml.\n"
)
_AFTER: Final = "\n# --- profile observability"


def env(text: str) -> str:
    """The settings file of Docker Compose, with every setting that is not set in it or by docker-compose.yml."""
    start, end = text.index(_FURTHER) + len(_FURTHER), text.index(_AFTER)
    taken = set(re.findall(r"^(CALIGO_\w+)=", text, re.MULTILINE)) | _composed()
    common = ServiceSettings.model_fields
    lines = [
        "",
        "# Of each service; here of the orchestrator. A collector must join the network services, from which nothing",
        "# leads out.",
    ]
    lines += _commented("orchestrator", common, taken)
    for service, kind in SETTINGS.items():
        own = {name: field for name, field in kind.model_fields.items() if name not in common}
        lines += _commented(service, own, taken)
    return text[:start] + "\n".join(lines) + "\n" + text[end:]


def _composed() -> set[str]:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return {name for service in services.values() for name in service.get("environment", {})}


def _commented(service: str, fields: dict[str, FieldInfo], taken: set[str]) -> Iterator[str]:
    for name, field in fields.items():
        variable = f"CALIGO_{service}_{name}".upper()
        if variable not in taken and name not in ELSEWHERE:
            said = _said(field).replace("`", "")
            yield from textwrap.wrap(said, WIDTH, initial_indent="# ", subsequent_indent="# ")
            default = field.get_default()
            yield f"#{variable}={ {None: '', False: 'false'}.get(default, default) }"


# --- documents --------------------------------------------------------------------------------------------------------


def limits(text: str) -> str:
    rows = [
        f"| `{name}` | {_number(field.get_default())} | {_said(field)} |"
        for name, field in OrchestratorSettings.model_fields.items()
        if LIMITS.match(name)
    ]
    return _between(
        "limits", text, ["| setting of the orchestrator | default | what is limited |", "|--|--|--|", *rows]
    )


def spec(text: str) -> str:
    head = ["| key | default | allowed | meaning |", "|--|--|--|--|"]
    return _between("spec", text, [*head, *_keys(CampaignSpec, "")])


def _keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
    schemas = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{prefix}{name}.")
        else:
            yield row(f"{prefix}{name}", schemas[name], field)


def row(name: str, schema: dict[str, Any], field: FieldInfo) -> str:
    """The line of a setting in a table of names, defaults, ranges and meanings."""
    default = field.get_default()
    shown = "none" if default in ("", {}, None) else _number(default)
    return f"| `{name}` | {shown} | {_allowed(schema)} | {_said(field)} |"


def _allowed(node: dict[str, Any]) -> str:
    if "enum" in node:
        return ", ".join(node["enum"])
    lowest = node.get("minimum", node.get("exclusiveMinimum"))
    highest = node.get("maximum", node.get("exclusiveMaximum"))
    if lowest is None or highest is None:
        return ""
    low = f"above {_number(lowest)}" if "exclusiveMinimum" in node else _number(lowest)
    return f"{low} to {'below ' if 'exclusiveMaximum' in node else ''}{_number(highest)}"


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        if value == 2**63:
            return "2^63"
        return f"{value:,}" if isinstance(value, int) else f"{value:,g}"
    return str(value)


def _said(field: FieldInfo) -> str:
    """The sentence of a setting, on one line; a document that it names, and that there is, is linked."""
    text = " ".join((field.description or "").split()).replace("|", "\\|")
    return re.sub(r"docs/(\w+\.md)", _linked, text)


def _linked(found: re.Match[str]) -> str:
    return f"[{found[1]}]({found[1]})" if (ROOT / found[0]).exists() else found[0]


def parameters(text: str) -> str:
    """The nine parameters: symbol, unit, ranges, what they mean in a laboratory."""
    lines = [
        "| symbol | parameter | unit | allowed | preset `cliff` | in a laboratory |",
        "|--|--|--|--|--|--|",
        *(
            f"| `{p.symbol}` | {p.title} | {p.unit} | {p.lowest:g} to {p.highest:g} | "
            f"{' to '.join(f'{bound:.3g}' for bound in PRESETS['cliff'][p.symbol])} | {p.in_laboratory} |"
            for p in PARAMETERS
        ),
        f"| `strategy` | reconciliation | | {', '.join(strategy.name.lower() for strategy in Strategy)} | both | "
        f"{' '.join((inspect.getdoc(Strategy) or '').split()).partition('. ')[2]} |",
    ]
    return _between("parameters", text, lines)


def _between(name: str, text: str, lines: list[str]) -> str:
    begin, end = f"<!-- {name}: made by make tables -->\n", f"<!-- {name}: end -->"
    head, found, rest = text.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"the marks of {name} are missing")
    return head + begin + "\n".join(lines) + "\n" + end + tail


FILES: Final[dict[Path, Callable[[str], str]]] = {
    SCHEMA: schema,
    Path(".env"): env,
    Path("docs/security.md"): limits,
    Path("docs/guide.md"): spec,
    Path("docs/glossary.md"): parameters,
}

if __name__ == "__main__":
    sys.exit(main())
