"""The commands and their options. What they do lives in the modules beside this one.

Each command imports what it uses, for all of it together takes a second to load.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from caligo.cli import complain, describe
from caligo.cli.checks import check_app
from caligo.cli.connection import add_options, connect
from caligo.cli.datasets import dataset_app
from caligo.cli.tokens import token_app
from caligo.errors import InvalidArgument

SERVICES = ("sampler", "simulator", "surrogate", "orchestrator")

app = typer.Typer(
    name="caligo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""
    Finds the security cliff of oblivious transfer in the noisy-storage model with few simulations.

    `caligo run SPEC.yaml` does it all on this machine. `caligo serve` starts the services one by one; the other
    commands then talk to the orchestrator at `--address`.

    Results go to standard output, everything else to standard error. Exit codes: 0 done, 2 bad input,
    3 unreachable, 4 not found or conflict, 5 campaign failed, 6 not allowed, 130 interrupted.
    """,
)

HERE, REMOTE = "On this machine", "On a running orchestrator"

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output: one object, or one a line.")]
Address = Annotated[
    str,
    typer.Option(
        envvar="CALIGO_ADDRESS", metavar="HOST:PORT", help="Where the orchestrator listens; also `unix:PATH`."
    ),
]
SpecFile = Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="The campaign's spec.", show_default=False)]
Assignments = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set one setting of the spec, e.g. `active.samples=50`; may be given again. Goes before the "
        "environment (`CALIGO_SPEC__ACTIVE__SAMPLES`), which goes before the file.",
        show_default=False,
    ),
]
Seed = Annotated[int | None, typer.Option(help="Root of the seed tree.", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="CAMPAIGN", help="`campaigns/ID`, or the id alone.")]
Points = Annotated[
    list[str],
    typer.Argument(
        metavar="SYMBOL=VALUE...",
        help="A point in physical units; what is left out takes the middle of the campaign's space.",
    ),
]
DEFAULT_ADDRESS = "127.0.0.1:50050"


def _version(wanted: bool) -> None:
    if wanted:
        from caligo.cli import versions

        typer.echo("\n".join(versions.lines()))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say what is installed, from where.")
    ] = False,
) -> None:
    pass


# --- on this machine ------------------------------------------------------------------------------------------------


@app.command("run", rich_help_panel=HERE)
def run_command(
    spec_file: SpecFile,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where results go.", show_default="results/NAME, as the spec names it"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the campaign in the output directory.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the whole spec; start nothing.")] = False,
    seed: Seed = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="EPR worker processes.", show_default="as many as suit the machine")
    ] = None,
    assignments: Assignments = [],  # noqa: B006 - typer copies it
    json: Json = False,
) -> None:
    """Run a campaign from its spec to a report, with services of its own.

    Starts the four services as child processes, shows progress, writes HDF5 and a report, and leaves no process
    behind. Ctrl-C stops cleanly at any moment; `--resume` goes on from there, to the very same results.

    Example: `caligo run examples/cliff.yaml --output results/cliff --set active.samples=200`
    """
    from caligo import statement
    from caligo.cli import specs
    from caligo.cli.display import LineDisplay, display
    from caligo.cli.interrupts import Interrupts
    from caligo.cli.output import campaign_to_plain, console, notices, print_findings, print_json, print_spec
    from caligo.cli.run import check_directory, run
    from caligo.layout import JOURNAL_NAME

    spec = specs.load(spec_file, assignments, seed)
    directory = output or Path("results") / spec.name
    check_directory(directory, spec, resume=resume)
    if dry_run:
        print_spec(spec, json=json)
        return
    with Interrupts() as interrupts:
        try:
            with LineDisplay(notices) if json else display(notices) as shown:
                campaign, dataset = run(spec, directory, interrupts, shown, resume=resume, workers=workers)
        except KeyboardInterrupt:
            if (directory / JOURNAL_NAME).exists():
                again = f"go on with: caligo run {spec_file} --output {directory} --resume"
            else:
                again = "nothing had been started; run the same command again"
            complain(f"interrupted; {again}")
            raise
        try:
            if campaign.findings and not json:
                print_findings(campaign.findings, *statement.summary(campaign.spec), ("dataset", str(dataset)))
        finally:  # an output that takes nothing costs the summary alone
            page = _report_if_possible(dataset)
    if json:
        print_json({**campaign_to_plain(campaign), "dataset": str(dataset), "report": str(page) if page else None})
    elif page:
        console.print(f"report: {page}", soft_wrap=True)


def _report_if_possible(dataset: Path) -> Path | None:
    """The report of a campaign that has ended well. Whatever is in its way costs the report, not the campaign."""
    again = f"write the report with: caligo report {dataset}"
    try:
        from caligo.cli.report import write_report

        return write_report(dataset, dataset.parent / "report")
    except KeyboardInterrupt:
        complain(f"interrupted; the campaign has ended, {again}")
    except Exception as error:
        complain(f"no report: {describe(error)}; {again}")
    return None


@app.command(rich_help_panel=HERE)
def simulate(
    point: Points,
    runs: Annotated[int, typer.Option(min=1, max=100_000, help="How often.")] = 50,
    spec_file: Annotated[
        Path | None,
        typer.Option(
            "--spec",
            metavar="SPEC.yaml",
            help="Claim, device, source and protocol of a campaign; its seed and space too.",
            show_default="the defaults of a spec",
        ),
    ] = None,
    seed: Seed = None,
    workers: Annotated[int | None, typer.Option(min=1, help="EPR worker processes.", show_default="one a core")] = None,
    assignments: Assignments = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Run the protocol many times at one point: outcomes, rates and their spread, beside the closed form.

    Without a surrogate and without a campaign; the simulator must be installed here. Parameters that are not given take
    the middle of the spec's space. Points may lie outside the space.

    Example: `caligo simulate F=0.97 eta=0.3 N=1e6 r=0.5 --runs 100`
    """
    import dataclasses

    from caligo import statement
    from caligo.cli import specs
    from caligo.cli.output import console, print_json
    from caligo.cli.rows import parse_point, point_to_plain
    from caligo.errors import FailedPrecondition

    spec = specs.load(spec_file, assignments, seed)
    row = parse_point(point, spec.space.resolve(), extrapolate=True)
    try:
        from caligo.cli import simulation

        found = simulation.simulate(row[0], spec, runs, workers)
    except ModuleNotFoundError as error:
        if error.name != "caligo_simulator":
            raise
        raise FailedPrecondition("runs are simulated where the simulator is installed (caligo-simulator)") from None
    if json:
        plain = {"point": point_to_plain(row), "claim": spec.physics.claim, "seed": spec.seed}
        print_json({**plain, **dataclasses.asdict(found)})
        return
    shown = simulation.table(found)
    for label, text in statement.summary(spec):
        if label in ("claim", "device"):
            shown.add_row(label, text)
    console.print(shown)


@app.command(
    rich_help_panel=HERE,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def serve(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help=f"One of {', '.join(SERVICES)}.", show_default=False)],
) -> None:
    """Run one service in the foreground, until SIGTERM; everything after its name goes to the service.

    Example: `caligo serve orchestrator --data-directory data --simulator dns:///simulator:50052`, or
    `caligo serve simulator --help` for what can be set.
    """
    import tempfile
    from importlib.util import find_spec

    from caligo.cli.embedded import environment

    if service in ("-h", "--help"):
        typer.echo(context.get_help())
        return
    if service not in SERVICES:
        raise InvalidArgument("SERVICE", f"must be one of {', '.join(SERVICES)}, not {service!r}")
    module = f"caligo_{service}"
    if find_spec(module) is None:
        raise InvalidArgument("SERVICE", f"{service} is not installed here: pip install caligo-{service}")
    surroundings = environment(lambda: tempfile.mkdtemp(prefix="caligo-"))
    os.execve(sys.executable, [sys.executable, "-m", module, *context.args], surroundings)


@app.command(rich_help_panel=HERE)
def schema() -> None:
    """Print the JSON schema of a spec, for editors.

    Example: `caligo schema > caligo.schema.json`, and as the first line of a spec
    `# yaml-language-server: $schema=caligo.schema.json`
    """
    from caligo.cli.output import print_json
    from caligo.spec import CampaignSpec

    print_json(CampaignSpec.model_json_schema())


@app.command(rich_help_panel=HERE)
def report(
    source: Annotated[str, typer.Argument(metavar="FILE.h5|CAMPAIGN", help="A campaign's file, or its name.")],
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where figures and report.md go.", show_default="`report` beside the file"),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    json: Json = False,
) -> None:
    """Write figures and a Markdown page about a campaign.

    From its HDF5 file; or from the orchestrator by its name, with the file downloaded into the same directory.

    Example: `caligo report results/cliff/campaigns/3f2a/exploration_data.h5 --output report`
    """
    from caligo.cli.output import console, print_json
    from caligo.cli.report import write_report
    from caligo.layout import FILE_NAME

    path, id = Path(source), source.removeprefix("campaigns/")
    if path.is_file() or "/" in id or id.endswith(".h5"):
        page = write_report(path, output or path.parent / "report")
    else:
        directory = output or Path(id)
        with connect(address) as client:
            campaign = client.get(source)
            directory.mkdir(parents=True, exist_ok=True)
            path = client.download(campaign.name, directory / FILE_NAME, overwrite=True)
        page = write_report(path, directory)
    if json:
        print_json({"report": str(page), "figures": sorted(str(p) for p in page.parent.glob("*.png"))})
    else:
        console.print(f"{page}", soft_wrap=True)


@app.command(rich_help_panel=HERE)
def recompute(
    file: Annotated[Path, typer.Argument(metavar="FILE.h5", help="A campaign's file.", show_default=False)],
    claim: Annotated[
        list[str],
        typer.Option(
            "--claim", metavar="NAME", help="Under this claim; may be given again.", show_default="under every claim"
        ),
    ] = [],  # noqa: B006
    rows: Annotated[bool, typer.Option("--rows", help="Print every row under each claim, a line each.")] = False,
    json: Json = False,
) -> None:
    """Say what a campaign's rows would be under another claim, from what they counted; nothing is simulated.

    A claim that the rows say nothing about, as it needs another partition, is `n/a` with the reason. The codes are
    those that the runs chose for their own claim.

    Example: `caligo recompute cliff.h5 --claim lupo2023`, or `caligo recompute cliff.h5 --rows > claims.tsv`
    """
    from caligo.cli.comparison import compare, named, print_comparison, print_rows_under
    from caligo.cli.output import say_rules
    from caligo.dataset import GROUPS, open_campaign

    chosen = [named(name) for name in claim]
    with open_campaign(file) as dataset:
        by_phase, spec = {phase: dataset.rows(phase) for phase in GROUPS}, dataset.spec
        found = compare(dataset.rows(), spec, chosen)
    say_rules({str(file): spec})
    if rows:
        print_rows_under(found, by_phase, json=json)
    else:
        print_comparison(found, spec, json=json)


app.add_typer(dataset_app, name="dataset", rich_help_panel=HERE)
app.add_typer(token_app, name="token", rich_help_panel=HERE)
app.add_typer(check_app, name="check", rich_help_panel=HERE)


@app.command(rich_help_panel=HERE)
def certificates(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.", show_default=False)],
    hosts: Annotated[
        list[str],
        typer.Option(
            "--host",
            metavar="NAME[,NAME...]",
            help="Names and addresses of one certificate; may be given again for another.",
        ),
    ] = ["localhost,127.0.0.1,::1"],  # noqa: B006
    authority: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the authority and its key are kept.", show_default="the same"),
    ] = None,
    apart: Annotated[bool, typer.Option("--apart", help="Each certificate in a directory of its own.")] = False,
    renew: Annotated[bool, typer.Option("--renew", help="Make anew what is there and good.")] = False,
    json: Json = False,
) -> None:
    """Make an authority of your own and certificates that it signs, for development or a private network.

    An authority that is there is kept, and so are certificates that hold the names and are good for another month.

    Example: `caligo certificates tls --host orchestrator,gpu-box --host sampler --host simulator --host surrogate`
    """
    from caligo.cli.certificates import make_certificates
    from caligo.cli.output import console, print_json

    written = make_certificates(directory, hosts, authority=authority, apart=apart, renew=renew)
    if json:
        print_json({"files": [str(path) for path in written]})
    else:
        console.print("\n".join(map(str, written)), soft_wrap=True)


# --- on a running orchestrator --------------------------------------------------------------------------------------


@app.command(rich_help_panel=REMOTE)
def submit(
    spec_file: SpecFile,
    address: Address = DEFAULT_ADDRESS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Let the server check the spec; start nothing.")] = False,
    request_id: Annotated[
        str | None, typer.Option(help="The same id again gives the same campaign.", show_default="a new one")
    ] = None,
    priority: Annotated[int, typer.Option(min=1, max=1000, help="Share of the farm.")] = 100,
    seed: Seed = None,
    assignments: Assignments = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Start a campaign and print its name.

    Example: `caligo submit examples/cliff.yaml --address gpu-box:50050 --seed 7`
    """
    from caligo.cli import specs
    from caligo.cli.output import campaign_to_plain, console, print_json, print_spec, say_rules

    spec = specs.load(spec_file, assignments, seed)
    with connect(address) as client:
        campaign = client.create(spec, validate_only=dry_run, request_id=request_id, priority=priority)
    if dry_run:
        print_spec(campaign.spec, json=json)
    elif json:
        print_json(campaign_to_plain(campaign))
    else:
        say_rules({campaign.name: campaign.spec})
        console.print(campaign.name)


@app.command("list", rich_help_panel=REMOTE)
def list_command(
    state: Annotated[str | None, typer.Option(help="Only those in this state, e.g. `running`.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only those of this owner.")] = None,
    prefix: Annotated[str | None, typer.Option(help="Only those whose id begins so.")] = None,
    address: Address = DEFAULT_ADDRESS,
    json: Json = False,
) -> None:
    """List campaigns, newest first: where each stands and what share of the simulators it has.

    Example: `caligo list --state running`
    """
    from caligo.cli.output import campaign_to_plain, parse_state, print_campaigns, print_json, say_rules

    wanted = parse_state(state) if state else None
    with connect(address) as client:
        campaigns = client.list(wanted, owner=owner, prefix=prefix)
        if json:
            for campaign in campaigns:
                print_json(campaign_to_plain(campaign))
        else:
            found = list(campaigns)
            print_campaigns(found)
            say_rules({campaign.id: campaign.spec for campaign in found})


@app.command(rich_help_panel=REMOTE)
def show(name: Name, address: Address = DEFAULT_ADDRESS, json: Json = False) -> None:
    """Show where a campaign stands, and what it found once it has ended.

    Example: `caligo show 3f2a`
    """
    from caligo.cli.output import print_campaign

    with connect(address) as client:
        print_campaign(client.get(name), json=json)


@app.command(rich_help_panel=REMOTE)
def watch(
    name: Name,
    after: Annotated[int, typer.Option(min=0, help="Only events with a greater number.")] = 0,
    address: Address = DEFAULT_ADDRESS,
    json: Json = False,
) -> None:
    """Follow a campaign to its end; leaving it with Ctrl-C does not stop the campaign.

    Exit code 5 if the campaign failed.

    Example: `caligo watch 3f2a --json | jq -c .progress`
    """
    from caligo.cli.display import display
    from caligo.cli.output import event_to_plain, notices, print_campaign, print_json
    from caligo.client import check_success

    with connect(address) as client:
        if json:
            for event in client.watch(name, after):
                print_json(event_to_plain(event))
        else:
            with display(notices) as shown:
                for event in client.watch(name, after):
                    shown.show(event)
        campaign = client.get(name)
    if not json:
        print_campaign(campaign, json=False)
    check_success(campaign)


@app.command(rich_help_panel=REMOTE)
def update(
    name: Name,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Rows of active learning wanted in all.", show_default="as it is")
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Share of the simulators relative to others.", show_default="as it is"),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    json: Json = False,
) -> None:
    """Change the budget or the priority of a campaign that has not ended; a running one picks it up.

    The file becomes that of a campaign that was made with the new budget. It may not go below the rows that have been
    handed out.

    Example: `caligo update 3f2a --samples 400 --priority 200`
    """
    from caligo.cli.output import print_campaign

    if samples is None and priority is None:
        raise InvalidArgument("--samples, --priority", "at least one of them must be given")
    with connect(address) as client:
        campaign = client.update(name, samples=samples, priority=priority)
    print_campaign(campaign, json=json)


@app.command(rich_help_panel=REMOTE)
def pause(name: Name, address: Address = DEFAULT_ADDRESS, json: Json = False) -> None:
    """Stop a campaign at once; what has come back is kept, rows under way are computed again after a resume.

    Example: `caligo pause 3f2a`
    """
    from caligo.cli.output import print_state

    with connect(address) as client:
        print_state(client.pause(name), json=json)


@app.command(rich_help_panel=REMOTE)
def resume(name: Name, address: Address = DEFAULT_ADDRESS, json: Json = False) -> None:
    """Go on with a paused campaign.

    Example: `caligo resume 3f2a`
    """
    from caligo.cli.output import print_state

    with connect(address) as client:
        print_state(client.resume(name), json=json)


@app.command(rich_help_panel=REMOTE)
def cancel(name: Name, address: Address = DEFAULT_ADDRESS, json: Json = False) -> None:
    """End a campaign for good; what it has is kept.

    Example: `caligo cancel 3f2a`
    """
    from caligo.cli.output import print_state

    with connect(address) as client:
        print_state(client.cancel(name), json=json)


@app.command(rich_help_panel=REMOTE)
def delete(name: Name, address: Address = DEFAULT_ADDRESS, json: Json = False) -> None:
    """Remove a campaign that has ended, with its files.

    Example: `caligo delete 3f2a`
    """
    from caligo.cli.output import print_json

    with connect(address) as client:
        client.delete(name)
    if json:
        print_json({"deleted": name})


@app.command(rich_help_panel=REMOTE)
def results(
    name: Name,
    phase: Annotated[str | None, typer.Option(help="`lhs` or `active`.", show_default="both")] = None,
    start_row: Annotated[int, typer.Option(min=0, help="First row wanted, counted within the phase.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for rows that are yet to come.")] = False,
    address: Address = DEFAULT_ADDRESS,
    json: Json = False,
) -> None:
    """Print a campaign's rows, a line each: tab-separated with a heading, or JSON; physical units.

    With `--follow` until the campaign has ended, through restarts of the server; a terminal that the rows do not go to
    shows how many have come. Exit code 5 if a followed campaign failed.

    Example: `caligo results 3f2a --phase active --json | jq 'select(.outcome == "success") | .net_efficiency'`, or
    `caligo results 3f2a --follow > rows.tsv`
    """
    from rich.progress import TextColumn, TimeElapsedColumn

    from caligo.cli.display import counting
    from caligo.cli.output import notices, say_rules
    from caligo.cli.rows import parse_phase, print_rows
    from caligo.client import check_success
    from caligo.phases import Phase

    phases = [parse_phase(phase)] if phase else [Phase.LHS, Phase.ACTIVE]
    columns = TextColumn("{task.completed:,.0f}"), TimeElapsedColumn()
    with (
        connect(address) as client,
        counting(notices, f"rows of {name}", *columns, shown=not sys.stdout.isatty()) as count,
    ):
        say_rules({name: client.get(name).spec})
        batches = ((p, rows) for p in phases for rows in client.results(name, p, start_row, follow=follow))
        print_rows(batches, json=json, on_progress=count)
        if follow:
            check_success(client.get(name))


@app.command(rich_help_panel=REMOTE)
def download(
    name: Name,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.h5", help="Where it goes.")] = Path(
        "exploration_data.h5"
    ),
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    address: Address = DEFAULT_ADDRESS,
    json: Json = False,
) -> None:
    """Fetch a campaign's HDF5 file, checked by its SHA-256; it appears whole or not at all.

    What has come of it is kept in FILE.h5.part until it is whole: the same command again goes on from there.

    Example: `caligo download 3f2a --output cliff.h5`
    """
    from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    from caligo.cli.display import counting
    from caligo.cli.output import console, notices, print_json, say_rules

    with (
        connect(address) as client,
        counting(notices, str(output), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) as count,
    ):
        say_rules({name: client.get(name).spec})
        try:
            path = client.download(name, output, overwrite=force, on_progress=count)
        except KeyboardInterrupt:
            complain("interrupted; the same command goes on from what has come")
            raise
    if json:
        print_json({"path": str(path), "bytes": path.stat().st_size})
    else:
        console.print(f"{path}", soft_wrap=True)


@app.command(rich_help_panel=REMOTE)
def predict(
    name: Name,
    point: Points = [],  # noqa: B006
    table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            metavar="FILE",
            help="Points from a table instead, a line each under a heading of symbols, commas or tabs; `-` for "
            "standard input. `caligo results` prints such a table.",
            show_default=False,
        ),
    ] = None,
    extrapolate: Annotated[
        bool,
        typer.Option("--extrapolate", help="Take points outside the campaign's space too; they are marked as such."),
    ] = False,
    address: Address = DEFAULT_ADDRESS,
    json: Json = False,
) -> None:
    """Ask a campaign's surrogate about points, and the closed form beside it: margin, its standard deviation, and the
    probability of a key.

    Of one run: the standard deviation includes the noise between runs. `outside` says in which parameters a point
    lies outside the campaign's space, where nothing was learned and the answer is a guess.

    Example: `caligo predict 3f2a r=0.75 nu=0.1 F=0.98 eta=0.5 N=1e6 strategy=blind`, or
    `caligo predict 3f2a --table points.csv --json`
    """
    from caligo.cli.output import say_rules
    from caligo.cli.rows import parse_point, print_prediction, print_predictions, read_points

    if point and table:
        raise InvalidArgument("--table", "takes the place of a point; give one of the two")
    with connect(address) as client:
        spec = client.get(name).spec
        say_rules({name: spec})
        space = spec.space.resolve()
        rows = read_points(table, space, extrapolate) if table else parse_point(point, space, extrapolate)
        predicted = client.predict(name, rows, extrapolate=extrapolate)
    print_answers = print_predictions if table else print_prediction
    print_answers(rows, predicted, spec, json=json)


LEVELS: Final = [0.5, 0.95]
"""Probabilities of a key that are asked for unless others are."""


@app.command(rich_help_panel=REMOTE)
def threshold(
    name: Name,
    parameter: Annotated[
        str, typer.Argument(metavar="PARAMETER", help="Symbol of what is asked for, e.g. r.", show_default=False)
    ],
    point: Points = [],  # noqa: B006
    level: Annotated[
        list[float], typer.Option("--level", help="Probability of a key; may be given several times.")
    ] = LEVELS,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            metavar="FILE",
            help="Many devices: a table as for `predict`, a line each; `-` for standard input.",
            show_default=False,
        ),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    json: Json = False,
) -> None:
    """Find the value of one parameter at which a key becomes likely, for a device that is given otherwise.

    Of every strategy that the campaign has: the values at which the probability that one run gives a key passes 50 %
    and 95 %, the band that the surrogate's uncertainty makes (95 %), and what the closed form says. Parameters that
    are not given take the middle of the campaign's space. A level that is not crossed in the space is said not to be.

    Example: `caligo threshold 3f2a r F=0.96 eta=0.1 nu=0.5`: up to which adversary memory is my link secure?
    """
    from caligo.cli.output import say_rules
    from caligo.cli.rows import naming, parse_assignments, print_thresholds, read_assignments

    if point and table:
        raise InvalidArgument("--table", "takes the place of a point; give one of the two")
    with connect(address) as client:
        spec = client.get(name).spec
        say_rules({name: spec})
        for line, at in read_assignments(table) if table else [("", parse_assignments(point))]:
            with naming(line):
                found = client.threshold(name, parameter, at=at, levels=level)
            print_thresholds(found, at, spec, json=json)


@app.command(rich_help_panel=REMOTE)
def require(
    name: Name,
    baseline: Annotated[
        list[str],
        typer.Argument(
            metavar="SYMBOL=VALUE...",
            help="What there is, in physical units; what is left out takes the middle of the campaign's space.",
            show_default=False,
        ),
    ],
    free: Annotated[
        str, typer.Option(metavar="SYMBOLS", help="What may be improved, of F, eta, e_det and P_dark.")
    ] = "F,eta,e_det,P_dark",
    confidence: Annotated[float, typer.Option(help="Probability that one run gives a key.")] = 0.95,
    weight: Annotated[
        list[str],
        typer.Option(
            "--weight",
            metavar="SYMBOL=W",
            help="Weight of a parameter's factor in the cost, 1 if not given; may be given several times.",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    over: Annotated[
        str,
        typer.Option(
            metavar="SYMBOL=VALUE,VALUE,...",
            help="Ask again for each value of a parameter, r or N say: a front of cost against it.",
            show_default=False,
        ),
    ] = "",
    address: Address = DEFAULT_ADDRESS,
    json: Json = False,
) -> None:
    """Find the cheapest improvements of hardware with which a key becomes likely.

    A parameter has a probability p of no imperfection; improving it by the factor k takes p to p^(1/k), and a set of
    improvements costs the sum of its k, as in the blueprints for quantum networks: doing nothing costs 1 each. Of
    every strategy that the campaign has: factors, what they come to, the cost with the band that the surrogate's
    uncertainty makes (95 %), and the closed form's own.

    Example: `caligo require cliff F=0.93 eta=0.05 e_det=0.03 P_dark=1e-5 --free F,eta,e_det`
    """
    from caligo.cli.output import say_rules
    from caligo.cli.rows import parse_assignments, parse_numbers, parse_values, print_requirements

    given = parse_assignments(baseline)
    symbol, values = parse_values(over, "--over") if over else ("", [""])
    if symbol and symbol in given:
        raise InvalidArgument("--over", f"{symbol} is given in the baseline; leave it out there")
    weights = parse_numbers(weight, "--weight")
    with connect(address) as client:
        spec = client.get(name).spec
        say_rules({name: spec})
        for value in values:
            at = {**given, **({symbol: value} if symbol else {})}
            found = client.require(name, at, free=free.split(","), confidence=confidence, weights=weights)
            print_requirements(found, at, confidence, spec, json=json)


@app.command(rich_help_panel=REMOTE)
def contour(
    name: Name,
    x: Annotated[str, typer.Argument(metavar="X", help="Symbol of the first parameter.", show_default=False)],
    y: Annotated[str, typer.Argument(metavar="Y", help="Symbol of the second one.", show_default=False)],
    point: Points = [],  # noqa: B006
    level: Annotated[float, typer.Option(help="Probability of a key.")] = 0.5,
    points: Annotated[int, typer.Option(min=2, max=501, help="Points of the grid along each parameter.")] = 101,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.csv",
            help="Write it there, as CSV, or as GeoJSON where the name ends in .geojson or .json.",
            show_default=False,
        ),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    json: Json = False,
) -> None:
    """Give the cliff over two parameters as lines, for other plotters: physical units, the others held at a point.

    For every strategy of the campaign the surrogate's line, the two where it would be at the ends of the surrogate's
    95 % interval ("surer", "less sure"), and the closed form's. Without `--output` as CSV on standard output, with
    `--json` as GeoJSON.

    Example: `caligo contour cliff F eta r=0.6 --output cliff.csv`
    """
    from caligo.cli.output import console, print_json, say_rules
    from caligo.cli.rows import contours_as_csv, parse_assignments

    with connect(address) as client:
        spec = client.get(name).spec
        say_rules({name: spec})
        found = client.contour(name, x, y, at=parse_assignments(point), level=level, points=points)
    geojson = found.to_geojson(claim=spec.physics.claim, campaign=spec.name)
    if output is None:
        if json:
            print_json(geojson)
        else:
            sys.stdout.write(contours_as_csv(found))
        return
    is_geojson = output.suffix.lower() in (".geojson", ".json")
    if not is_geojson and output.suffix.lower() != ".csv":
        raise InvalidArgument("--output", "must end in .csv, .geojson or .json")
    import json as json_module

    text = json_module.dumps(geojson) + "\n" if is_geojson else contours_as_csv(found)
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidArgument("--output", f"{output}: {error.strerror}") from None
    if json:
        print_json({"path": str(output), "lines": len(found.lines)})
    else:
        console.print(f"{output}: {len(found.lines)} lines", soft_wrap=True)


@app.command("slice", rich_help_panel=REMOTE)
def slice_command(
    name: Name,
    x: Annotated[str, typer.Argument(metavar="X", help="Symbol of the first parameter.", show_default=False)],
    y: Annotated[str, typer.Argument(metavar="Y", help="Symbol of the second one.", show_default=False)],
    point: Points = [],  # noqa: B006
    points: Annotated[int, typer.Option(min=2, max=501, help="Points of the grid along each parameter.")] = 41,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.png", help="Draw it instead of printing it.", show_default=False),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    json: Json = False,
) -> None:
    """Cut through the cliff: the surrogate's posterior over two parameters, the others held at a point.

    Example: `caligo slice 3f2a F N r=0.75 eta=0.5 --output slice.png`
    """
    from caligo.cli.output import console, print_json, say_rules
    from caligo.cli.rows import parse_point, print_slice

    with connect(address) as client:
        spec = client.get(name).spec
        say_rules({name: spec})
        at = parse_point(point, spec.space.resolve())[0]
        piece = client.slice(name, x, y, at=at, points=points)
    if output is None:
        print_slice(piece, spec, json=json)
        return
    from caligo.cli.report import draw_slice  # brings matplotlib

    path = draw_slice(piece, spec, output)
    if json:
        print_json({"path": str(path)})
    else:
        console.print(f"{path}", soft_wrap=True)


add_options(app)
