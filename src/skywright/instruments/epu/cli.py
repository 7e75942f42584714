"""``skywright epu ...``: the directory tree of the cryo-EM acquisition software EPU."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from skywright.cli.output import JsonOption, make_console, print_json
from skywright.errors import ConfigError
from skywright.instruments.epu.cli_recording import app as recording
from skywright.instruments.epu.cli_services import app as services
from skywright.instruments.epu.cli_watch import app as watching
from skywright.processes.lifecycle import call_on_end_signal

app = typer.Typer(no_args_is_help=True, add_completion=False)

DirectoryArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Directory to read.")]
JobsOption = Annotated[int, typer.Option(min=0, help="Processes; 0: as many as cores.")]


@app.callback()
def _group() -> None:
    """Cryo-EM sessions: parse, validate, watch, record and serve what EPU writes."""


# Without a name: their commands stand beside those of this module.
app.add_typer(watching)
app.add_typer(recording)
app.add_typer(services)


def existing_directory(path: Path) -> Path:
    """Return `path`; raise ConfigError if it is not a directory."""
    if not path.is_dir():
        raise ConfigError(f"{path}: not a directory; expected a directory that EPU has written")
    return path


def _report(directory: Path, problems: list[tuple[str, str]]) -> None:
    """Print what cannot be read below a directory, and why."""
    for path, reason in problems:
        typer.echo(f"skywright: {directory / path}: {reason}", err=True)


parse = typer.Typer(no_args_is_help=True, add_completion=False)
app.add_typer(parse, name="parse", help="Read a file or a directory and print its contents.")


@parse.command("dir")
def parse_directory(
    directory: DirectoryArgument, as_json: JsonOption = False, jobs: JobsOption = 0
) -> None:
    """Every session below DIR, merged; exit status 0 also when some files cannot be read."""
    _print_tree(directory, as_json, jobs)


@parse.command("grid")
def parse_grid(
    directory: DirectoryArgument, as_json: JsonOption = False, jobs: JobsOption = 0
) -> None:
    """One session directory; its atlas is looked for beside it."""
    existing_directory(directory)
    if not (directory / "EpuSession.dm").is_file():
        raise ConfigError(f"{directory}: not a session directory; it has no EpuSession.dm")
    _print_tree(directory, as_json, jobs)


def _print_tree(directory: Path, as_json: bool, jobs: int) -> None:
    import os

    from skywright.instruments.epu.tree import Tree

    tree = Tree(existing_directory(directory), jobs or os.cpu_count() or 1)
    if as_json:
        for chunk in tree.chunks():
            sys.stdout.write(chunk)
        sys.stdout.write("\n")
        return
    from skywright.instruments.epu.show import tree_tables

    if not tree.sessions and not tree.atlases:
        text = "nothing of EPU is below this directory; expected a visit or a session's directory"
        typer.echo(f"skywright: {directory}: {text}", err=True)
    console = make_console()
    for table in tree_tables(tree):
        console.print(table)


FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="File to read.")]


def _add_file_command(kind: str, text: str) -> None:
    def command(path: FileArgument, as_json: JsonOption = False) -> None:
        _print_file(path, kind, as_json)

    parse.command(kind, help=text)(command)


for _kind, _text in {
    "session": "An EpuSession.dm.",
    "atlas": "An Atlas.dm: tiles, and squares on the atlas.",
    "gridsquare-metadata": "A Metadata/GridSquare_<id>.dm: a square and its planned holes.",
    "gridsquare": "The manifest of a grid square.",
    "foilhole": "The manifest of a foil hole.",
    "micrograph": "The manifest of a micrograph.",
}.items():
    _add_file_command(_kind, _text)


def _print_file(path: Path, kind: str, as_json: bool) -> None:
    from skywright.instruments.epu.names import Kind
    from skywright.instruments.epu.single import parse_single

    row, problems = parse_single(path, Kind(kind))
    for problem in problems:
        typer.echo(f"skywright: {path}: {problem}", err=True)
    if as_json:
        print_json(row)
        return
    from skywright.instruments.epu.show import row_table

    make_console().print(row_table(row))


@app.command()
def validate(
    directory: DirectoryArgument,
    deep: Annotated[bool, typer.Option("--deep", help="Read the files too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check one session directory; exit status 0 valid, 1 invalid, 2 bad use."""
    from skywright.instruments.epu.validate import validate_deep, validate_layout

    check = validate_deep if deep else validate_layout
    verdict = check(existing_directory(directory))
    if as_json:
        print_json(verdict)
    else:
        for error in verdict.errors:
            typer.echo(f"error: {error}")
        for warning in verdict.warnings:
            typer.echo(f"warning: {warning}")
        typer.echo(f"{directory}: {'valid' if verdict.valid else 'invalid'}")
    raise typer.Exit(0 if verdict.valid else 1)


@app.command()
def stat(
    directory: DirectoryArgument,
    watch: Annotated[
        float | None,
        typer.Option(metavar="S", min=0.1, help="Print again every S seconds, until Ctrl-C."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Files and bytes by kind, largest first."""
    from threading import Event

    from skywright.instruments.epu.housekeeping import usage
    from skywright.instruments.epu.show import usage_table

    existing_directory(directory)
    ended = Event()
    if watch is not None:
        call_on_end_signal(ended.set)
    while not ended.is_set():
        problems: list[tuple[str, str]] = []
        found = usage(directory, problems)
        _report(directory, problems)
        if as_json:
            print_json({"kinds": found})
        else:
            make_console().print(usage_table(found))
        if watch is None:
            return
        ended.wait(watch)


@app.command()
def slim(
    directory: DirectoryArgument,
    dry_run: Annotated[
        bool, typer.Option("-d", "--dry-run", help="Change nothing; print what would be emptied.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Empty the images of a test set; their names, and all metadata, stay."""
    from skywright.instruments.epu.housekeeping import slim as slim_directory

    problems: list[tuple[str, str]] = []
    emptied = slim_directory(existing_directory(directory), dry_run, problems)
    _report(directory, problems)
    total = sum(size for _, size in emptied)
    if as_json:
        print_json({"files": [path for path, _ in emptied], "bytes": total, "dry_run": dry_run})
        return
    for path, size in emptied:
        typer.echo(f"{size:>12} {path}")
    done = "would be emptied" if dry_run else "emptied"
    typer.echo(f"{len(emptied)} images, {total} bytes {done}")


@app.command("find-duplicates")
def find_duplicates(directory: DirectoryArgument, as_json: JsonOption = False) -> None:
    """Foil holes of one session that have more than one manifest."""
    from skywright.instruments.epu import housekeeping

    problems: list[tuple[str, str]] = []
    found = list(housekeeping.find_duplicates(existing_directory(directory), problems))
    _report(directory, problems)
    if as_json:
        print_json({"duplicates": found})
        return
    for duplicate in found:
        typer.echo(f"{duplicate.session}: foil hole {duplicate.foilhole}")
        for path in duplicate.files:
            typer.echo(f"    {path}")
    files = sum(len(duplicate.files) for duplicate in found)
    typer.echo(f"{len(found)} foil holes with more than one manifest, {files} files")


@app.command("format-xml")
def format_xml(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files or directories.")],
    recursive: Annotated[
        bool, typer.Option("-r", help="Format all files below directories.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("-d", "--dry-run", help="Change nothing; name what would change.")
    ] = False,
    backup: Annotated[
        bool, typer.Option("-b", "--backup", help="Keep each file as it was, with .bak added.")
    ] = False,
) -> None:
    """Indent .xml and .dm files in place; their content does not change."""
    from skywright.instruments.epu.format_xml import format_paths

    failed = False
    for given in paths:
        is_empty = True
        for path, outcome in format_paths([given], recursive, dry_run, backup):
            is_empty = False
            if isinstance(outcome, Exception):
                failed = True
                typer.echo(f"skywright: {path}: {outcome}", err=True)
            elif outcome:
                typer.echo(f"{'would format' if dry_run else 'formatted'} {path}")
        if is_empty:
            hint = "" if recursive else "; -r looks in the directories below"
            typer.echo(f"skywright: {given}: no .xml or .dm file{hint}", err=True)
    raise typer.Exit(1 if failed else 0)
