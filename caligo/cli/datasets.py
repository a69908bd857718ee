"""`caligo dataset`: a campaign's file, whether it is finished or still being written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caligo.errors import InvalidArgument

if TYPE_CHECKING:
    from caligo.dataset import CampaignDataset

dataset_app = typer.Typer(
    no_args_is_help=True,
    help="Look into a campaign's HDF5 file and turn it into other formats; it may still be written meanwhile.",
)

_File = Annotated[Path, typer.Argument(metavar="FILE.h5", help="A campaign's file.", show_default=False)]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


@dataset_app.command()
def info(file: _File, json: _Json = False) -> None:
    """Say what is in a file: campaign, software, rows by outcome; with `--json` the whole spec as well.

    Example: `caligo dataset info cliff.h5`
    """
    from caligo import statement
    from caligo.cli.output import console, pairs, print_json
    from caligo.dataset import open_campaign

    with open_campaign(file) as dataset:
        plain, summary = _describe(dataset), statement.summary(dataset.spec)
    if json:
        print_json(plain)
        return
    table = pairs()
    table.add_row("campaign", plain["campaign"])
    for label, text in summary:
        table.add_row(label, text)
    table.add_row("seed", str(plain["spec"]["seed"]))
    for phase, found in plain["phases"].items():
        table.add_row(phase, f"{found['rows']:,} of {found['room']:,} rows")
        for outcome, rows in found["outcomes"].items():
            table.add_row("", f"{rows:,} {outcome}")
    fits = plain["surrogate"]["fits"]
    table.add_row("surrogate", f"{fits:,} fits" if fits else "not fitted yet")
    table.add_row("made by", ", ".join(f"{package} {version}" for package, version in plain["versions"].items()))
    console.print(table)


def _describe(dataset: CampaignDataset) -> dict[str, Any]:
    from caligo import statement
    from caligo.dataset import GROUPS

    phases = {}
    for phase in GROUPS:
        outcomes = dataset.outcomes(phase)
        phases[phase.name.lower()] = {
            "rows": sum(outcomes.values()),
            "room": dataset.room(phase),
            "outcomes": outcomes,
        }
    surrogate = dataset.surrogate
    return {
        "path": str(dataset.path),
        "campaign": dataset.campaign,
        "versions": dataset.versions,
        "rules": dataset.spec.rules,
        "statement": statement.attributes(dataset.spec),
        "phases": phases,
        "surrogate": {"fits": len(surrogate.history), "secure_fraction": surrogate.secure_fraction},
        "spec": dataset.spec.model_dump(mode="json"),
    }


@dataset_app.command("export")
def export_command(
    file: _File,
    format: Annotated[
        str | None,
        typer.Option(help="csv, parquet or netcdf.", show_default="as the suffix of --output says"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where it goes.", show_default="beside FILE.h5"),
    ] = None,
    phase: Annotated[str | None, typer.Option(help="`lhs` or `active`.", show_default="both")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    json: _Json = False,
) -> None:
    """Write the rows that are there as CSV, Parquet or NetCDF, in physical units and with the unit of each column.

    CSV has the units in a header of `#` lines (ECSV: `pandas.read_csv(path, comment="#")`), Parquet as metadata of
    each field, NetCDF as the attribute `units` of each variable.

    Example: `caligo dataset export cliff.h5 --format parquet`, or
    `caligo dataset export cliff.h5 --phase active --output cliff.nc`
    """
    from caligo.cli.output import console, print_json, say_rules
    from caligo.cli.rows import parse_phase
    from caligo.dataset import open_campaign
    from caligo.exports import SUFFIXES, export

    if format is None:
        formats = {suffix: name for name, suffix in SUFFIXES.items()}
        if output is None or output.suffix not in formats:
            raise InvalidArgument("--format", f"must be one of {', '.join(SUFFIXES)}")
        format = formats[output.suffix]
    elif format not in SUFFIXES:
        raise InvalidArgument("--format", f"must be one of {', '.join(SUFFIXES)}, not {format!r}")
    path = output or file.with_suffix(SUFFIXES[format])
    with open_campaign(file) as dataset:
        rows = export(dataset, path, format, phase=parse_phase(phase) if phase else None, overwrite=force)
        say_rules({str(file): dataset.spec})
    if json:
        print_json({"path": str(path), "format": format, "rows": rows, "bytes": path.stat().st_size})
    else:
        console.print(f"{path}", soft_wrap=True)
