"""Settings of the services: flag over environment (`CALIGO_<SERVICE>_*`) over YAML file over default.

The file is the one that `CALIGO_CONFIG` names, with a section a service.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from caligo.errors import FieldViolation, InvalidArgument
from caligo.spec import invalid_argument, read_yaml

SECTIONS: Final = ("sampler", "simulator", "surrogate", "orchestrator")
"""The services, and the sections of a settings file."""


class ServiceSettings(BaseSettings):
    """What every service can be told. A service's own settings derive from this."""

    section: ClassVar[str]
    """Name of the service: the section in the settings file and the part after `CALIGO_`."""

    model_config = SettingsConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    address: str = "127.0.0.1:0"
    """Where to listen: `host:port` (port 0: any free one) or `unix:PATH`."""
    insecure: bool = False
    """Allow an address that other machines can reach, without encryption."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level of log lines."""
    grace_seconds: float = Field(10, ge=0)
    """How long calls under way may go on after SIGTERM."""
    lifeline: bool = False
    """Stop as soon as standard input closes: whoever started the service is gone."""

    def __init_subclass__(cls, section: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.section = section
        cls.model_config["env_prefix"] = f"CALIGO_{section.upper()}_"
        cls.model_config["cli_prog_name"] = f"caligo serve {section}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        sources = (init_settings, env_settings)
        path = os.environ.get("CALIGO_CONFIG")
        if path and cls.section in _read_sections(Path(path), cls.section):
            yaml = YamlConfigSettingsSource(settings_cls, yaml_file=path, yaml_config_section=cls.section)
            return (*sources, yaml)
        return sources

    @classmethod
    def from_command_line(cls, arguments: list[str]) -> Self:
        """Read flags, environment and file.

        Raises:
            InvalidArgument: a setting is unknown or not allowed.
            SystemExit: `--help` was asked for, or the flags cannot be parsed.
        """
        prefix = cls.model_config["env_prefix"]
        known = {f"{prefix}{name}".upper() for name in cls.model_fields}
        unknown = sorted(name for name in os.environ if name.startswith(prefix) and name.upper() not in known)
        if unknown:
            raise InvalidArgument(
                unknown[0], "no such setting", *(FieldViolation(n, "no such setting") for n in unknown[1:])
            )
        try:
            return CliApp.run(cls, cli_args=arguments)
        except ValidationError as error:
            raise invalid_argument(error) from None


def _read_sections(path: Path, own: str) -> dict[str, Any]:
    sections = read_yaml(path)
    for name, values in sections.items():
        if name not in (*SECTIONS, own):
            raise InvalidArgument(f"{path}: {name}", f"no such section; there are {', '.join(SECTIONS)}")
        if not isinstance(values, dict):
            raise InvalidArgument(f"{path}: {name}", "must hold a mapping of settings")
    return sections
