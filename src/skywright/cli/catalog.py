"""``skywright runs``, ``show``, ``export`` and ``recover``: the catalog on the command line."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from skywright.cli import with_ascii_minus
from skywright.cli.output import ConfigOption, JsonOption, make_console, print_json
from skywright.config import load_settings
from skywright.errors import ConfigError, DataError
from skywright.words import counted, in_seconds, in_short, local_time

if TYPE_CHECKING:
    from tiled.client.container import Container

    from skywright.store.lookup import JournalListing, RunSummary
    from skywright.store.show import DerivedView, RunView

Uid = Annotated[
    str | None,
    typer.Argument(
        metavar="UID",
        help="A uid or the start of one, a scan_id, or -1 for the newest raw run, -2 for the one "
        "before.",
    ),
]

VERDICT = "ok"
ANSWER = (VERDICT, "why", "reason")
"""Results that say whether an analysis found what it looked for, in the order of printing."""
LOSSES = ("n_dropped", "n_missing", "n_late")
"""Counts of members that were not used; one that is 0 is printed last."""
PLACES = ("last_identity", "update_number")
"""Results that are printed last."""
NARROW, PHONE, TINY = 100, 60, 50
"""Columns of a terminal below which the table of runs has no room for some of its columns."""
LEFT_OUT = {NARROW: {"took", "sample"}, PHONE: {"scan", "events or raw run"}, TINY: {"started"}}
"""Headings of the columns that are left out of the table of runs below these widths."""
RESULTS_MAX, COLUMNS_MAX = 12, 12
"""Results and columns that `show` prints without ``--all``."""


def runs(
    query: Annotated[
        str | None,
        typer.Argument(
            metavar="QUERY", help="A scan_id, the start of a uid, or words of the metadata."
        ),
    ] = None,
    plan: Annotated[str | None, typer.Option(help="Name of the plan.")] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="From: 2026-05-01, '2 days ago', 3h, today ..."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Until this time; a date without a time includes the whole day."
        ),
    ] = None,
    scan_id: Annotated[
        int | None, typer.Option(help="Number of the scan.", min=-(2**63), max=2**63 - 1)
    ] = None,
    sample: Annotated[str | None, typer.Option(help="Name of the sample.")] = None,
    raw: Annotated[
        str | None, typer.Option(metavar="UID", help="Runs derived from this raw run.")
    ] = None,
    purpose: Annotated[
        str | None, typer.Option(help="Purpose in the metadata; 'analysis': derived runs.")
    ] = None,
    analysis: Annotated[
        str | None, typer.Option(help="Name of the analysis that made a derived run.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=2**63 - 1, help="Maximum number of runs, the newest ones.")
    ] = 20,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List runs, raw and derived, newest last."""
    from skywright.session.session_store import connect_for_person
    from skywright.store.lookup import RunFilter, find_run, find_runs, waiting_runs

    settings = load_settings(config)
    since_s, until_s = _time("--since", since), _time("--until", until, end=True)
    client = connect_for_person(settings)
    run_filter = RunFilter(
        plan=plan,
        scan_id=scan_id,
        sample=sample,
        purpose=purpose,
        analysis=analysis,
        text=query,
        raw_uid=None if raw is None else find_run(client, raw).metadata["start"]["uid"],
        since_s=since_s,
        until_s=until_s,
    )
    found = find_runs(client, run_filter, limit, settings.journals)
    if as_json:
        for run in found:
            print_json(run)
    elif found:
        console = make_console()
        console.print(_runs_table(found, console.width))
    else:
        is_search = run_filter != RunFilter()
        typer.echo("no run matches" if is_search else "no run in the catalog yet", err=True)
    if not as_json and (waiting := waiting_runs(settings.journals)):
        typer.echo(
            f"runs that have ended and are not completely stored yet: {len(waiting)}", err=True
        )


def show(
    uid: Uid = None,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write frames, contact sheets and annotated pictures."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Show every column and every result.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show one run: first the results of its analyses, then streams, linked runs, pictures."""
    client, run, listing = _find(uid, config)
    from skywright.store.show import view_run

    view = view_run(client, run, listing)
    written = []
    if pictures:
        from skywright.store.pictures import write_pictures

        written = write_pictures(run, view, pictures)
    if as_json:
        print_json(asdict(view) | {"pictures": view.pictures, "written": written})
        return
    _print_view(make_console(), view, everything)
    for path in written:
        typer.echo(path)


def export(
    uid: Uid = None,
    format: Annotated[Literal["nexus", "csv", "zarr"], typer.Option(help="File format.")] = "nexus",
    output: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="File (nexus) or directory (csv, zarr) to make."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option(help="Replace an earlier export; other files in its directory stay.")
    ] = False,
    link: Annotated[
        bool, typer.Option(help="NeXus: link to the files of the frames, do not copy them.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write a run, raw or derived, as NeXus/HDF5, CSV or Zarr."""
    _, run, listing = _find(uid, config)
    from skywright.store.export import SUFFIXES, export_run

    start = run.metadata["start"]
    target = output or Path(f"{start['uid'][:8]}{SUFFIXES[format]}")
    report = export_run(run, target, format, overwrite=overwrite, link=link, listing=listing)
    if as_json:
        print_json(report)
        return
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    for path in report.files:
        typer.echo(path)


def recover(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Store the runs that are not in the catalog yet, from their journals; check the others.

    If an ingester runs on the store, it does the work. A second call changes nothing.
    The exit status is 1 if a run cannot be stored; its journal is then kept in journal/aside. The
    status is also 1 if a journal cannot be read, written, finished or renamed; the reason is
    printed.
    """
    from skywright.session.session_store import connect_for_person
    from skywright.store.recover import recover as recover_journals

    settings = load_settings(config)
    typer.echo("checking all runs ...", err=True)
    report = recover_journals(settings.directory, connect_for_person(settings))
    if as_json:
        print_json(report)
    else:
        for what, names in asdict(report).items():
            for name in names:
                typer.echo(f"{what} {name}")
        typer.echo(f"{report.changes} changes")
    if report.aside or report.failed:
        raise typer.Exit(1)


def _find(uid: str | None, config: Path | None) -> "tuple[Container, Container, JournalListing]":
    """Return the catalog, the run that is named, and the journals beside them."""
    if uid is None:
        raise ConfigError("name one run: UID, or -1 for the newest; `skywright runs` lists them")
    from skywright.session.session_store import connect_for_person
    from skywright.store.lookup import JournalListing, find_run

    settings = load_settings(config)
    client = connect_for_person(settings)
    listing = JournalListing(settings.journals)
    return client, find_run(client, with_ascii_minus(uid)), listing


def _time(option: str, text: str | None, *, end: bool = False) -> float | None:
    """Return the unix time that an option gives; None where it is not given."""
    from skywright.store.lookup import parse_time

    try:
        return None if text is None else parse_time(text, end=end)
    except DataError as error:
        raise DataError(f"{option} {error}") from error


def _runs_table(found: "list[RunSummary]", width: int) -> Table:
    """Return a line for each run; one for a narrow terminal has no year, seconds and `LEFT_OUT`."""
    left_out = {name for limit, names in LEFT_OUT.items() if width < limit for name in names}
    table = Table(box=None, pad_edge=False)
    for number, run in enumerate(found):
        started = local_time(run.time_s)
        cells = {
            "uid": run.uid[:8],
            "scan": str(run.scan_id if run.scan_id is not None else ""),
            "started": started[5:-3] if width < NARROW else started,
            "took": in_seconds(run.duration_s),
            "plan or analysis": run.analysis or run.plan or "",
            "sample": run.sample or "",
            "status": run.status,
            "events or raw run": f"of {run.raw_uid[:8]}" if run.raw_uid else run.counts,
        }
        shown = {name: text for name, text in cells.items() if name not in left_out}
        if number == 0:
            for name in shown:
                is_short = name in ("uid", "scan", "started", "took")
                table.add_column(name, no_wrap=is_short, overflow="fold")
        table.add_row(*shown.values())
    return table


def _print_view(console: Console, view: "RunView", everything: bool) -> None:
    summary = view.summary
    facts = {
        "uid": summary.uid,
        "scan": summary.scan_id,
        "plan": summary.plan,
        "analysis": summary.analysis,
        "sample": summary.sample,
        "started": local_time(summary.time_s),
        "took": in_seconds(summary.duration_s),
        "status": summary.status,
        "reason": (view.stop or {}).get("reason"),
        "raw run": summary.raw_uid and f"{summary.raw_uid} ({_raw_text(view)})",
    }
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value not in (None, ""):
            grid.add_row(name, str(value))
    console.print(grid)
    # An analysis that judges comes before those that only measure.
    for derived in sorted(view.analyses, key=lambda each: VERDICT not in each.results):
        _print_derived(console, derived, everything)
    for stream in view.streams:
        console.print(f"\nstream {stream.name}, {counted(stream.rows, 'row')}")
        table = Table(box=None, pad_edge=False, show_header=False)
        shown = stream.columns if everything else stream.columns[:COLUMNS_MAX]
        for column in shown:
            shape = " × ".join(map(str, column.shape))
            table.add_row(
                f"  {column.name}", shape, column.dtype, column.units or "", column.file or ""
            )
        console.print(table)
        _print_rest(console, len(stream.columns) - len(shown), "columns")
    for note in view.notes:
        console.print(f"note: {note}")


def _raw_text(view: "RunView") -> str:
    if view.raw is None:
        return "not in this catalog"
    scan_id = view.raw.scan_id
    return f"{view.raw.plan or 'run'}{'' if scan_id is None else f' {scan_id}'}"


def _print_derived(console: Console, view: "DerivedView", everything: bool) -> None:
    summary = view.summary
    of = "" if view.stream == "primary" else f" of {view.stream}"
    console.print(f"\nanalysis {summary.analysis}{of}, {summary.uid[:8]}, {summary.status}")
    if view.parameters:
        console.print(f"  with {in_short(view.parameters)}")
    # Whether it worked, and why not, is what a reader wants to know first.
    first = [name for name in ANSWER if view.results.get(name) not in (None, "")]
    last = [
        name
        for name, value in view.results.items()
        if name in PLACES or (name in LOSSES and not value) or (name in ANSWER and value == "")
    ]
    between = [name for name in view.results if name not in {*first, *last}]
    names = [*first, *between, *last]
    shown = names if everything else names[:RESULTS_MAX]
    for name in shown:
        console.print(f"  {name} = {in_short(view.results[name])}")
    _print_rest(console, len(names) - len(shown), "results")
    for path in view.pictures:
        console.print(f"  {path}", soft_wrap=True)


def _print_rest(console: Console, count: int, what: str) -> None:
    if count:
        console.print(f"  ... and {count} more {what}: --all", markup=False)
