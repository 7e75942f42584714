"""The command line: ``skywright COMMAND``, each command in a module imported only when it runs.

A common command ``NAME`` is the function ``NAME`` of its module in this package (plain Typer
signature). The command of an instrument is a group, the `typer.Typer` that the instrument declares.
"""

import errno
import io
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from skywright.errors import ConfigError, DataError, SkywrightError, is_disk_full
from skywright.instruments import instruments, resolve
from skywright.packages import with_extra
from skywright.processes.logs import log_to_stderr
from skywright.processes.memory import share_arenas
from skywright.rooms import PACKAGES

logger = logging.getLogger(__name__)

EXIT_FAILED, EXIT_BAD_USE = 1, 2
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
"""Errors of a path that the user can correct; pathlib's `exists` and `is_dir` raise them too."""
MINUS = "\N{MINUS SIGN}"


class Entry(NamedTuple):
    """The module of a command, its line in ``--help``, and the extra with what it imports.

    `takes_runs` says that its arguments may be runs by number, such as ``-2``.
    """

    module: str
    help: str
    extra: str
    takes_runs: bool = False


COMMANDS = {
    "up": Entry("up", "Start IOCs, tiled and the ingester; watch, restart and stop them.", "all"),
    "demo": Entry("demo", "Run the main job of every instrument, end to end.", "all"),
    "session": Entry("session", "IPython, or a script, with the profile loaded.", "all"),
    "doctor": Entry("doctor", "Check everything a session needs; say what to do.", "all"),
    "runs": Entry("catalog", "List runs, raw and derived.", "store"),
    "show": Entry("catalog", "Show one run.", "store", takes_runs=True),
    "export": Entry("catalog", "Write a run as NeXus, CSV or Zarr.", "store", takes_runs=True),
    "recover": Entry("catalog", "Store the runs that are not in the catalog yet.", "store"),
    "reprocess": Entry("reprocess", "Run an analysis over stored runs.", "store", takes_runs=True),
    "dashboard": Entry("dashboard", "Serve the live page.", "dashboard"),
}
"""The commands that belong to no instrument; their modules are in this package."""


def commands() -> dict[str, Entry]:
    """Return the commands by name: the common ones, then those of the instruments."""
    offered = {
        name: Entry(instrument.commands, instrument.summary or instrument.title, instrument.extra)
        for name, instrument in instruments().items()
        if instrument.commands and name not in COMMANDS
    }
    return COMMANDS | offered


def load(name: str) -> Any:
    """Import the module of the command `name` and return its Typer command."""
    entry = commands()[name]
    if ":" in entry.module:
        command: Any = typer.main.get_command(resolve(entry.module))
        command.name = name
    else:
        single = typer.Typer(add_completion=False)
        kind = RunsCommand if entry.takes_runs else TyperCommand
        single.command(name, cls=kind)(getattr(import_module(f"{__name__}.{entry.module}"), name))
        command = typer.main.get_command(single)
    _accept_verbose(command)
    return command


class RunsCommand(TyperCommand):
    """A command that takes runs by number: ``-1``, the newest, is an argument and no option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; ``-1`` is passed on with `MINUS`, which begins no option."""
        negative = re.compile(r"-\d+")
        return super().parse_args(
            ctx, [MINUS + arg[1:] if negative.fullmatch(arg) else arg for arg in args]
        )


def with_ascii_minus(argument: str) -> str:
    """Return an argument of a `RunsCommand` as it was typed."""
    return argument.replace(MINUS, "-")


def _accept_verbose(command: Any) -> None:
    """Let ``-v`` stand after the command too, where people type it."""
    if not any("-v" in parameter.opts for parameter in command.params):
        roots = typer.main.get_command(app).params
        command.params.append(next(each for each in roots if "-v" in each.opts))
    for child in getattr(command, "commands", {}).values():
        _accept_verbose(child)


def _set_verbosity(ctx: typer.Context, count: int) -> int:
    root = ctx.find_root()
    root.meta["skywright.verbosity"] = root.meta.get("skywright.verbosity", 0) + (count or 0)
    log_to_stderr(root.meta["skywright.verbosity"])
    return count


def report(failure: Exception, cause: Exception | None = None) -> int:
    """Print a failure in one line on stderr; return the exit status that it stands for.

    The log has the traceback of `cause`, by default of the failure.
    """
    logger.debug("failed", exc_info=cause or failure)
    typer.echo(f"skywright: {failure}", err=True)
    return EXIT_BAD_USE if isinstance(failure, ConfigError | DataError) else EXIT_FAILED


@contextmanager
def _errors_in_one_line(name: str) -> Iterator[None]:
    """Report each error of the command `name` that is no bug in one line, and exit."""
    try:
        yield
    except Exception as error:
        failure = in_words(name, error)
        if failure is None:
            raise
        raise typer.Exit(report(failure, error)) from error


def in_words(name: str, error: Exception) -> SkywrightError | None:
    """Return an error in words for the user of the command `name`; None if it is a bug."""
    if isinstance(error, SkywrightError):
        return error
    if isinstance(error, OSError) and is_disk_full(error):
        where = error.filename or "its output or a file"
        return SkywrightError(f"{name} could not write {where}: {error.strerror}")
    if isinstance(error, OSError) and error.errno in REFUSED and error.filename:
        return DataError(f"{error.filename}: {error.strerror}")
    if isinstance(error, ModuleNotFoundError) and name in commands():
        missing = (error.name or "").partition(".")[0]
        if missing not in PACKAGES:
            install = f"pip install '{_to_install(name)}'"
            return SkywrightError(f"{name} needs {missing}, which is not installed: {install}")
    httpx = sys.modules.get("httpx")  # not imported where no request was made
    if httpx is not None and isinstance(error, httpx.HTTPError):
        url, reason = error.request.url, str(error).partition("\n")[0]
        server = f"{url.scheme}://{url.netloc.decode()}"
        return SkywrightError(f"a request to {server} failed: {reason}")
    return None


class LazyGroup(TyperGroup):
    """A group that imports a command only to run it.

    It prints each error that is no bug in one line.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, in the table's order."""
        return list(commands())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command's name and help line, enough for ``--help``; None if unknown."""
        entry = commands().get(cmd_name)
        return entry and TyperCommand(name=cmd_name, help=entry.help)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Replace the help-only command by the imported one."""
        # Typer suggests one of these names for a typo.
        self.commands = {each: self.get_command(ctx, each) for each in commands()}
        name, _, rest = super().resolve_command(ctx, args)
        return name, load(str(name)), rest

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments before the command; ``--help`` and ``--version`` print here."""
        with _errors_in_one_line(" ".join(args) or "--help"):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error that is no bug is one line on stderr and the exit status."""
        _set_verbosity(ctx, 0)
        words = ctx._protected_args + ctx.args  # noqa: SLF001  the command is the first
        name = words[0] if words else ""
        try:
            with _errors_in_one_line(name):
                return super().invoke(ctx)
        except typer.BadParameter as error:  # pydantic puts "Value error, " before Typer's words
            error.message = error.message.removeprefix("Value error, ")
            raise


def _to_install(command: str) -> str:
    """Return what brings the packages that a command needs, as pip takes it."""
    if command in COMMANDS:
        return with_extra("skywright", COMMANDS[command].extra)
    return instruments()[command].to_install


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from skywright import __version__

        typer.echo(f"skywright {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
    verbose: int = typer.Option(
        0,
        "-v",
        "--verbose",
        count=True,
        show_default=False,
        expose_value=False,
        callback=_set_verbosity,
        help="Log more to stderr (-vv: all).",
    ),
) -> None:
    """Five photon instruments in one Bluesky session."""


def main(args: list[str] | None = None) -> None:
    """Run the command line (entry point of ``skywright``)."""
    share_arenas()
    if sys.stdout is None:  # its caller closed it (`>&-`)
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file may have any bytes as its name; JSON reads this escape sequence.
        sys.stdout.reconfigure(errors="backslashreplace")
    columns = os.environ.get("COLUMNS", "")
    if not (columns.isdecimal() and int(columns)):  # rich takes 0 as a width, and prints nothing
        os.environ.pop("COLUMNS", None)
    command = typer.main.get_command(app)
    command(args if args is not None else sys.argv[1:], prog_name="skywright")
