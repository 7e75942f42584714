"""Processes forked from one that has imported their modules. Each starts seconds faster.

They are processes like those of ``python -m``, ``python -c`` and ``python FILE``: own pid, own
pipes, ended by any signal. Their parent is the process that forks, which all workers of xdist
share. What they start by `skywright.processes.child.start_module` is forked too. The children of
``skywright up`` are forks of it: they must be its children, so that it can watch them.

A forked process has all these modules from its start. A test that checks what a module imports, or
what the import prints, must start a new interpreter with `subprocess`.
"""

import _posixsubprocess
import asyncio
import atexit
import os
import pickle
import runpy
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType
from typing import Any

from skywright.instruments import instruments
from skywright.processes import child

COMMAND = ("skywright.cli",)
STORE = ("skywright.store.ingester", "skywright.store.server")
CHILDREN = (
    "iocs.repeater",
    "skywright.callbacks.drawing",
    "skywright.callbacks.worker",
    "skywright.cli.pv_probe",
    "skywright.instruments.psss.endpoints.pixels",
)
IOCS = tuple(sorted({ioc.module for each in instruments().values() for ioc in each.iocs.values()}))


def _what_runs(module: str) -> str:
    """Return the module whose code ``python -m MODULE`` runs."""
    spec = find_spec(module)
    return f"{module}.__main__" if spec and spec.submodule_search_locations else module


AHEAD = {module: _what_runs(module) for module in COMMAND + STORE + CHILDREN + IOCS}
"""What can be forked, and the module that is imported for it."""
UP = ("skywright.cli", "up")
"""Module and first argument of the program whose children are forked from itself."""
PRELOAD = (*AHEAD.values(), "tests.support.ahead")
"""The last one is found where pytest was started in the checkout; without it a fork is slower."""
TESTS = str(Path(__file__).parents[1])

_PYTHON = sys.executable
_start_module = child.start_module
_ADDRESS = "SKYWRIGHT_TEST_FORK_SERVER"


class _Server(forkserver.ForkServer):
    """The process that forks.

    Processes that inherit our environment use it while we live: it takes 6 s of processor time to
    start, and 500 MB. It is not the server of `multiprocessing`. Packages of ours use that one too,
    and its first user decides what it imports.
    """

    def ensure_running(self) -> None:
        """Start it, unless another process has."""
        if self._forkserver_pid is not None or _ADDRESS not in os.environ:
            super().ensure_running()
            # Since Python 3.14 the server refuses clients that do not have its key.
            key = getattr(self, "_forkserver_authkey", None) or b""
            os.environ[_ADDRESS] = f"{key.hex()} {self._forkserver_address}"
        elif self._forkserver_address is None:
            resource_tracker.ensure_running()
            key, _, self._forkserver_address = os.environ[_ADDRESS].partition(" ")
            self._forkserver_authkey = bytes.fromhex(key)
            # In place of the pipe by which it knows that somebody may need it
            self._forkserver_alive_fd = os.open(os.devnull, os.O_RDONLY)

    def stop(self) -> None:
        """End it, if this process has started it, and wait for that: it ends before pytest does.

        It does not wait for the processes that it has forked.
        """
        self._stop()


SERVER = _Server()
SERVER.set_forkserver_preload(list(PRELOAD))


@dataclass
class _Program:
    """What a forked process does; the server of `multiprocessing` calls `_bootstrap` in it.

    Parameters
    ----------
    command, environment, directory, start_new_session, process_group
        As those of `subprocess.Popen`; a negative group is that of the process that forks.
    """

    command: Sequence[str]
    environment: dict[str, str]
    directory: str
    start_new_session: bool = False
    process_group: int = -1

    def __reduce__(self) -> tuple[Any, ...]:
        # In a forked process that forks another one, this module is not in `sys.modules`
        find = f"__import__('sys').path.insert(0, {TESTS!r})"
        make = f"__import__({__name__!r}, fromlist=['_Program'])._Program"
        return eval, (f"{find} or {make}(*{tuple(vars(self).values())!r})",)

    def _bootstrap(self, parent_sentinel: int) -> int:
        os.close(parent_sentinel)
        # The server ends when nobody holds this pipe; it is not to wait for this process
        os.close(forkserver._forkserver._forkserver_alive_fd)
        streams = forkserver.get_inherited_fds()
        if self.start_new_session:
            os.setsid()
        if self.process_group >= 0:
            os.setpgid(0, self.process_group)
        return self.run(streams)

    def run(self, streams: Sequence[int]) -> int:
        """Run the module with these standard streams and return the exit status."""
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        # As of a new interpreter: a program that does not flush what it says must fail here too
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        util._finalizer_registry.clear()
        sys.path[:] = self._paths()
        for name in [name for name in sys.modules if name.partition(".")[0] == "support"]:
            del sys.modules[name]  # imported to make this object, not by the program
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.directory)
        # `nohup make test` ignores it in all processes
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        execute = self._main()
        for importer in list(sys.modules.values()):
            if getattr(importer, "__dict__", {}).get("start_module") is _start_module:
                importer.start_module = start_module  # type: ignore[attr-defined]
        if tuple(self.command[2:4]) == UP:
            subprocess._fork_exec = _fork_exec
        try:
            return _status_of(execute)
        finally:
            threading._shutdown()
            atexit._run_exitfuncs()
            util._flush_std_streams()

    def _main(self) -> Callable[[], object]:
        """Return what the interpreter would execute as ``__main__``, and set its arguments."""
        how, *rest = self.command[1:]
        if how == "-m":
            module, *sys.argv[1:] = rest
            sys.modules.pop(AHEAD[module], None)  # it is executed anew
            return partial(runpy.run_module, module, run_name="__main__", alter_sys=True)
        if how == "-c":
            code, *sys.argv[1:] = rest
            main = sys.modules["__main__"] = ModuleType("__main__")
            sys.argv[0] = how
            return partial(exec, code, vars(main))
        sys.argv[:] = [how, *rest]
        return partial(runpy.run_path, how, run_name="__main__")

    def _paths(self) -> list[str]:
        """Return `sys.path` of the program: without what only pytest or its environment added."""
        here, theirs = (
            [path for path in each.get("PYTHONPATH", "").split(os.pathsep) if path]
            for each in (os.environ, self.environment)
        )
        how = self.command[1]
        is_script = how.endswith(".py")
        first = str(Path(self.directory, how).resolve().parent) if is_script else self.directory
        added = ("", *here, first)  # "" is the directory of the process that forks
        installed = [path for path in sys.path if path not in added and not path.startswith(TESTS)]
        return [first, *theirs, *installed]


def _fork_exec(command: Sequence[Any], *options: Any) -> int:
    """Do what `subprocess._fork_exec` does; a module of `AHEAD` runs in a fork of this process.

    This process has been forked itself, so it has imported all that the module needs.
    """
    given = dict(zip(_FORK_OPTIONS, options, strict=False))
    words = [os.fsdecode(word) for word in command]
    if not _is_ahead(words):
        return _posixsubprocess.fork_exec(command, *options)
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        atexit._clear()
        asyncio._set_running_loop(None)
        if given["process_group"] >= 0:
            os.setpgid(0, given["process_group"])
        if given["start_new_session"]:
            os.setsid()
        ends = (given["p2cread"], given["c2pwrite"], given["errwrite"])
        streams = [os.dup(number if end == -1 else end) for number, end in enumerate(ends)]
        for each in list(Path("/proc/self/fd").iterdir()):
            if (descriptor := int(each.name)) > 2 and descriptor not in streams:
                with suppress(OSError):  # it was open to list them
                    os.close(descriptor)
        # Their descriptors are closed
        resource_tracker._resource_tracker._fd = None
        SERVER._forkserver_address = forkserver._forkserver._forkserver_address = None
        pairs = (os.fsdecode(each).partition("=") for each in given["env"] or ())
        environment = {name: value for name, _, value in pairs} or dict(os.environ)
        directory = os.fsdecode(given["cwd"] or os.getcwd())  # noqa: PTH109
        status = _Program(words, environment, directory).run(streams)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _status_of(execute: Callable[[], object]) -> int:
    """Execute a program as the interpreter does; return the exit status."""
    try:
        execute()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
            return 1
        return int(end.code or 0)
    except BaseException as error:
        sys.excepthook(*sys.exc_info())
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        return 1
    return 0


class Forked(subprocess.Popen[Any]):
    """A program of Python, forked; all else is as in `subprocess.Popen`.

    It does not take the options in `NOT_FORKED`.
    """

    def _execute_child(self, args: Sequence[str], *options: Any) -> None:
        given = dict(zip(_OPTIONS, options, strict=True))
        env, cwd = given["env"], given["cwd"]
        SERVER.ensure_running()
        program = _Program(
            list(args),
            {**(os.environ if env is None else env), _ADDRESS: os.environ[_ADDRESS]},
            str(Path.cwd() if cwd is None else cwd),
            given["start_new_session"],
            given["process_group"],
        )
        ends = [given[each] for each in ("p2cread", "c2pwrite", "errwrite")]
        # A stream that is not given is ours
        streams = [number if end == -1 else end for number, end in enumerate(ends)]
        self._sentinel, data = SERVER.connect_to_new_process(streams)
        # Not before `Popen.__del__`, which may read it
        weakref.finalize(self, os.close, self._sentinel).atexit = False
        with os.fdopen(data, "wb") as pipe:
            pickle.dump({}, pipe)
            pickle.dump(program, pipe)
        self.pid, self._child_created = forkserver.read_signed(self._sentinel), True
        self._close_pipe_fds(*(given[each] for each in _OPTIONS if each in _ENDS))

    def __exit__(self, failure: type[BaseException] | None, *details: Any) -> None:
        # A test that failed or took too long does not wait for a process that goes on
        if failure is not None:
            self.kill()
        super().__exit__(failure, *details)

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        # Two threads may ask, and the status can be read once
        if self._waitpid_lock.acquire(blocking=False):
            try:
                self._read_status()
            finally:
                self._waitpid_lock.release()
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None and not wait([self._sentinel], timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        with self._waitpid_lock:
            self._read_status()
        return self.returncode

    def _read_status(self) -> None:
        if self.returncode is None and wait([self._sentinel], 0):
            try:
                self.returncode = forkserver.read_signed(self._sentinel)
            except EOFError:  # the server has ended; `multiprocessing` gives this status too
                self.returncode = 255


_ENDS = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
_FORK_OPTIONS = (
    *("executables", "close_fds", "pass_fds", "cwd", "env", *_ENDS, "errpipe_read"),
    *("errpipe_write", "restore_signals", "start_new_session", "process_group"),
)
"""The first ones of `subprocess._fork_exec`."""
_OPTIONS = (
    *("executable", "preexec_fn", "close_fds", "pass_fds", "cwd", "env", "startupinfo"),
    *("creationflags", "shell", *_ENDS, "restore_signals", "gid", "gids", "uid", "umask"),
    *("start_new_session", "process_group"),
)
"""Of `subprocess.Popen._execute_child`."""
NOT_FORKED = {
    *("executable", "preexec_fn", "close_fds", "pass_fds", "shell", "restore_signals"),
    *("user", "group", "extra_groups", "umask"),
}
"""Options of `subprocess.Popen` with which a process is not forked."""


def start(
    command: Sequence[Any], *, env: Mapping[str, str] | None = None, **options: Any
) -> "subprocess.Popen[Any]":
    """Start a process: forked if it is ``python -m MODULE`` with a module of `AHEAD`, ``python -c``
    or ``python FILE.py``, without further options of the interpreter.

    Parameters
    ----------
    command, env, **options
        As those of `subprocess.Popen`.
    """
    words = [os.fspath(word) for word in command]
    is_forked = (_is_ahead(words) or _is_code(words)) and NOT_FORKED.isdisjoint(options)
    return (Forked if is_forked else subprocess.Popen)(words, env=env, **options)


def _is_ahead(command: Sequence[str]) -> bool:
    return list(command[:2]) == [_PYTHON, "-m"] and command[2] in AHEAD


def _is_code(command: Sequence[str]) -> bool:
    program, how, *_ = *command, ""
    return program == _PYTHON and (how == "-c" or how.endswith(".py"))


def run(
    command: Sequence[Any],
    *,
    capture_output: bool = False,
    check: bool = False,
    timeout: float | None = None,
    **options: Any,
) -> "subprocess.CompletedProcess[Any]":
    """Run a process to its end, forked if it can be.

    Parameters
    ----------
    command, capture_output, check, timeout, **options
        As those of `subprocess.run`.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} if capture_output else {}
    with start(command, **pipes, **options) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
    if check:
        done.check_returncode()
    return done


def start_module(module: str, *arguments: str, **options: Any) -> "subprocess.Popen[Any]":
    """Do what `skywright.processes.child.start_module` does, forked if it can be."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return start([sys.executable, "-m", module, *arguments], **{**pipes, **options})
