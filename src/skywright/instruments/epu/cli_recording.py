"""``skywright epu record|replay|info``: a directory's changes, recorded and played again."""

import errno
import threading
from pathlib import Path
from typing import Annotated

import typer

from skywright.cli.output import JsonOption, print_json
from skywright.errors import ConfigError, SkywrightError, is_disk_full
from skywright.processes.lifecycle import call_on_end_signal

app = typer.Typer(add_completion=False)

MaxSizeOption = Annotated[
    int,
    typer.Option(
        "--max-size", metavar="GIB", min=0, help="Refuse a recording that unpacks to more."
    ),
]
SIZE_MAX_GIB = 64
OCCUPIED = (errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY)
"""What a name has that is taken already, by a file or a directory."""


def _extensions(text: str) -> frozenset[str]:
    names = text.lower().replace(",", " ").split()
    return frozenset(name if name.startswith(".") else f".{name}" for name in names)


@app.command()
def record(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory to record.")],
    out: Annotated[Path | None, typer.Argument(metavar="OUT", help="New file, .tar.gz.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The same as OUT.")] = None,
    skip_binary: Annotated[
        bool,
        typer.Option(
            "--skip-binary-content/--no-skip-binary-content",
            help="Keep only the size of binary files.",
        ),
    ] = True,
    text: Annotated[
        str, typer.Option("--force-text-extensions", help="Always text, comma-separated: .a,.b")
    ] = "",
    binary: Annotated[
        str, typer.Option("--force-binary-extensions", help="Always binary, comma-separated: .a,.b")
    ] = "",
) -> None:
    """Record DIR as it is, then every change, until SIGINT or SIGTERM; OUT is written then."""
    from skywright.instruments.epu.recording.archive import RecordingWriter
    from skywright.instruments.epu.recording.record import RecordOptions, record_directory

    if out is not None and output is not None:
        raise ConfigError(f"two files to write: {out} and {output}; name one, as OUT or with -o")
    path = out or output
    if path is None:
        raise ConfigError("name the file to write: skywright epu record DIR OUT")
    if not directory.is_dir():
        raise ConfigError(f"{directory}: not a directory")
    if path.is_dir():
        raise ConfigError(f"{path}: a directory; expected the file to write")
    stopped = threading.Event()
    call_on_end_signal(stopped.set)
    options = RecordOptions(skip_binary, _extensions(text), _extensions(binary))
    try:
        count = record_directory(directory, path, options, stopped, _announce)
    except OSError as error:
        partial = RecordingWriter.partial_of(path)
        kept = f"; what was recorded before is in {partial}, which `skywright epu replay` takes"
        kept = kept if (partial / "events.jsonl").exists() else ""
        raise _kind_of(error, ConfigError)(_reason(error, path) + kept) from error
    typer.echo(f"{path}: {count} events")


def _reason(error: Exception, file: Path) -> str:
    """Return what went wrong with which file; `file` stands where the error names none."""
    if isinstance(error, OSError):
        return f"{error.filename2 or error.filename or file}: {error.strerror or error}"
    return f"{file}: {error}"


def _kind_of(error: Exception, otherwise: type[SkywrightError]) -> type[SkywrightError]:
    """Return what `error` is reported as: a full disk is a failure, and no bad use or input."""
    return SkywrightError if is_disk_full(error) else otherwise


def _announce(count: int) -> None:
    typer.echo(f"ready: {count} files and directories recorded; ends with Ctrl-C")


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recording.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Directory to write.")],
    fast: Annotated[
        bool, typer.Option("--fast", help="100 times as fast, no wait above 1 s (default).")
    ] = False,
    exact: Annotated[bool, typer.Option("--exact", help="At the times of the original.")] = False,
    burst: Annotated[bool, typer.Option("--burst", help="Without any wait.")] = False,
    dev_mode: Annotated[bool, typer.Option("--dev-mode", help="The same as --burst.")] = False,
    speed: Annotated[
        float | None, typer.Option("-s", "--speed", metavar="X", help="X times as fast.")
    ] = None,
    max_delay: Annotated[
        float | None, typer.Option(metavar="S", min=0, help="No wait above S seconds.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Compare sha256.")] = True,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out what the recorder could not read.")
    ] = False,
    max_size: MaxSizeOption = SIZE_MAX_GIB,
    as_json: JsonOption = False,
) -> None:
    """Play a recording into TARGET; exit status 1 if a file differs from the original."""
    from skywright.instruments.epu.recording.archive import RecordingError
    from skywright.instruments.epu.recording.replay import Pace
    from skywright.instruments.epu.recording.replay import replay as play

    if sum((fast, exact, burst or dev_mode, speed is not None)) > 1:
        raise ConfigError("use one of --fast, --exact, --speed and --burst")
    if speed is not None and not speed > 0:
        raise ConfigError(f"--speed {speed:g}: must be above 0")
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target}: not a directory; expected the directory to write into")
    pace = Pace()
    if exact:
        pace = Pace(1.0, None)
    elif speed is not None:
        pace = Pace(speed, None)
    elif burst or dev_mode:
        pace = Pace(float("inf"), None)
    if max_delay is not None:
        pace = Pace(pace.speed, max_delay)
    try:
        result = play(file, target, pace, verify, skip_unreadable, max_unpacked=max_size << 30)
    except (RecordingError, OSError) as error:
        in_the_way = isinstance(error, OSError) and error.errno in OCCUPIED
        advice = "; give an empty directory to replay into" if in_the_way else ""
        raise _kind_of(error, RecordingError)(_reason(error, file) + advice) from error
    for difference in result.differences:
        typer.echo(f"skywright: {difference}", err=True)
    if as_json:
        print_json(result)
    else:
        typer.echo(f"{target}: {result.events} events, {len(result.differences)} differences")
    raise typer.Exit(1 if result.differences else 0)


@app.command()
def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recording.")],
    max_size: MaxSizeOption = SIZE_MAX_GIB,
    as_json: JsonOption = False,
) -> None:
    """Print the counts per event type of a recording."""
    from skywright.instruments.epu.recording.archive import RecordingError
    from skywright.instruments.epu.recording.replay import summarize

    try:
        summary = summarize(file, max_size << 30)
    except (RecordingError, OSError) as error:
        raise _kind_of(error, RecordingError)(_reason(error, file)) from error
    if as_json:
        print_json(summary)
        return
    typer.echo(f"recorded {summary.recorded_at} in {summary.watch_dir}, version {summary.version}")
    typer.echo(f"{summary.events} events in {summary.seconds:.1f} s")
    for kind, count in sorted(summary.counts.items()):
        typer.echo(f"{kind:>14} {count}")
