"""Settings of the services: flag over environment (`CALIGO_<SERVICE>_*`) over YAML file over default.

The file is the one that `CALIGO_CONFIG` names, with a section a service.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from caligo.errors import FieldViolation, InvalidArgument
from caligo.spec import invalid_argument

if TYPE_CHECKING:
    from caligo.tls import Tls

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
    tls_certificate: Path | None = None
    """Own certificate (PEM, with the chain to its authority); what is not on a Unix socket is then encrypted."""
    tls_key: Path | None = None
    """Key of the certificate (PEM, without a password)."""
    tls_client_ca: Path | None = None
    """Certificates of authorities (PEM); clients must then show a certificate of theirs (mutual TLS)."""
    metrics_address: str = ""
    """Where Prometheus is answered, `host:port`; encrypted where the service is. Empty: nowhere."""
    traces_endpoint: str = ""
    """Collector that OpenTelemetry's spans are sent to, `host:port` or `https://host:port` (OTLP over gRPC). Empty:
    nothing is traced."""
    traces_share: float = Field(1, ge=0, le=1)
    """Share of the rows that are traced; the same rows wherever it is the same."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level of log lines."""
    grace_seconds: float = Field(10, ge=0)
    """How long calls under way may go on after SIGTERM."""
    lifeline: bool = False
    """Stop as soon as standard input closes: whoever started the service is gone."""

    def tls(self) -> Tls | None:
        """Who the service is and whose certificates its clients must show; None where nothing is encrypted.

        Raises:
            InvalidArgument: a file cannot be used, or one is set without what it needs.
        """
        from caligo.tls import Tls  # brings gRPC, which processes that only read settings must not load

        fields = ("tls_client_ca", "tls_certificate", "tls_key")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise InvalidArgument("tls_client_ca", "needs tls_certificate and tls_key")
        if self.tls_certificate is None and self.tls_key is None:
            return None
        return Tls(self.tls_client_ca, self.tls_certificate, self.tls_key, fields=fields)

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
        values = cls.read_section(os.environ.get("CALIGO_CONFIG"))
        return (init_settings, env_settings, InitSettingsSource(settings_cls, values))

    @classmethod
    def read_section(cls, path: str | None) -> dict[str, Any]:
        """What a settings file, if there is one, says of the service.

        Raises:
            InvalidArgument: it cannot be read, or is no such file.
        """
        return _read_sections(Path(path), cls.section).get(cls.section, {}) if path else {}

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
    from caligo import yaml12  # of no use to clients

    sections = yaml12.read(path)
    for name, values in sections.items():
        if name not in (*SECTIONS, own):
            raise InvalidArgument(f"{path}: {name}", f"no such section; there are {', '.join(SECTIONS)}")
        if not isinstance(values, dict):
            raise InvalidArgument(f"{path}: {name}", "must hold a mapping of settings")
    return sections
