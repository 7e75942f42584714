"""``skywright reprocess``: an analysis over stored runs."""

import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skywright.analysis.named import (
    configured_parameters,
    first_stage_of,
    is_second_stage,
    named_analyses,
)
from skywright.cli import in_words, report, with_ascii_minus
from skywright.cli.output import ConfigOption, print_json
from skywright.config import load_settings
from skywright.errors import ConfigError, DataError, SkywrightError

if TYPE_CHECKING:
    from skywright.session.session_store import SessionStore

NAMES = [
    f"{name} (after {analysis.after})" if analysis.after else name
    for name, analysis in sorted(named_analyses().items())
]
"""The analyses that go by a name, for the help."""


def reprocess(
    uids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="UID...",
            help="Uids or starts of uids, scan_ids, or -1 for the newest raw run, -2 for the one "
            "before.",
        ),
    ] = None,
    *,
    analysis: Annotated[
        str, typer.Option(metavar="NAME", help=f"{', '.join(NAMES)}, or module:Class.")
    ],
    parameters: Annotated[
        str,
        typer.Option(
            metavar="JSON",
            help="Parameters of the analysis; those that are not named come from the "
            "configuration, as in a session.",
        ),
    ] = "{}",
    key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=DATA_KEY", help="Data key of an input, where more than one would fit."
        ),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Dask scheduler, or 'local' to use all cores here."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object per derived run and nothing else."),
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Run an analysis over stored runs; each stream that has its inputs gets a new derived run.

    A run or stream that cannot be analyzed is reported, and the others are analyzed.

    A second-stage analysis ("after" another one) takes the results of the first stage: name a
    derived run of the first stage, or a raw run to run both stages.
    """
    import httpx

    from skywright.analysis.cluster import cluster
    from skywright.session.session_store import SessionStore, connect_for_person
    from skywright.store.client import ANALYSIS
    from skywright.store.lookup import find_run
    from skywright.store.reprocess import Reprocessed, reprocess_each

    if not uids:
        raise ConfigError("name a run: UID..., or -1 for the newest; `skywright runs` lists them")
    settings = load_settings(config)
    client = connect_for_person(settings)
    runs = [find_run(client, uid) for uid in map(with_ascii_minus, uids)]
    given = configured_parameters(analysis, settings) | _json(parameters)
    options: dict[str, Any] = {"store": settings.directory, "keys": _keys(key or [])}
    if is_second_stage(analysis) and analysis in named_analyses():
        options["first"] = configured_parameters(first_stage_of(analysis), settings)
    status = 0
    with cluster(dask) if dask else nullcontext() as submit:
        for run in runs:
            try:
                results = reprocess_each(run, analysis, given, submit=submit, **options)
                for each in results:
                    if isinstance(each, DataError):
                        status = max(status, report(each))
                    elif as_json:
                        print_json(each)
                    else:
                        _print(each)
                for each in results:
                    if isinstance(each, Reprocessed):
                        _await(SessionStore(client[ANALYSIS], settings.directory), each.derived_uid)
            except ConfigError:  # it holds for all runs
                raise
            except (SkywrightError, httpx.HTTPError) as error:
                status = max(status, report(in_words("reprocess", error) or error, error))
    if status:
        raise typer.Exit(status)


def _await(store: "SessionStore", uid: str) -> None:
    """Wait until a derived run is stored; `SkywrightError` if it is not, which is no bad use."""
    try:
        store.await_run(uid)
    except DataError as error:
        raise SkywrightError(str(error)) from error


def _print(done: Any) -> None:
    typer.echo(f"{done.raw_uid[:8]} {done.stream} -> {done.derived_uid} {done.analysis}")
    for name, value in done.result.items():
        text = f"{value:.6g}" if isinstance(value, float) else value
        typer.echo(f"  {name:20} {text}")
    for path in done.pictures:
        typer.echo(f"  {path}")


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--parameters {text!r} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"--parameters {text!r}: expected a JSON object, {{...}}")
    return value


def _keys(pairs: list[str]) -> dict[str, str]:
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise ConfigError(f"--key {wrong[0]!r}: expected INPUT=DATA_KEY, e.g. image=axis_image")
    return dict(pair.split("=", 1) for pair in pairs)
