"""What all processes of skywright share: logs, the ready line, the end with the parent, memory."""

import argparse
import atexit
import ctypes
import json
import logging
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import NoReturn

from skywright.errors import ConfigError

SUPERVISED = "SKYWRIGHT_SUPERVISED"
LOG_LEVEL = "SKYWRIGHT_LOG_LEVEL"
STOP_LIMIT_S = 5.0
"""Maximum time from SIGTERM (or the parent's end) to the end of a process, s."""

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
ARENAS = "MALLOC_ARENA_MAX"
"""Environment variable that has the effect of `share_arenas` in a process to be started."""
M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3
"""Option numbers of glibc's malloc.h."""
LARGE_ARRAY_BYTES = 1 << 20
ROOMS = ("skywright", "iocs", "devices", "plans", "dashboard")
"""Our top-level packages."""


def log_to_stderr(verbosity: int = 0) -> None:
    """Send the log to stderr.

    Parameters
    ----------
    verbosity
        0 shows errors, 1 (``-v``) information, 2 (``-vv``) everything. The level named by
        ``SKYWRIGHT_LOG_LEVEL`` is used if `verbosity` is 0.
    """
    level = (logging.ERROR, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
    if verbosity == 0:
        named = os.environ.get(LOG_LEVEL, "").upper()
        level = logging.getLevelNamesMapping().get(named, level)
    logging.basicConfig(stream=sys.stderr, format=LOG_FORMAT)
    logging.getLogger().setLevel(max(level, logging.WARNING))  # other libraries: at least WARNING
    for room in ROOMS:
        logging.getLogger(room).setLevel(level)


def log_to_file(path: Path, max_bytes: int = 10_000_000, backup_count: int = 5) -> None:
    """Send the log to a file too; a full file is renamed ``.1`` and a new one begins.

    Parameters
    ----------
    path
        Path of the log file; its directory is created.
    max_bytes
        Size at which a new file begins.
    backup_count
        Number of full files to keep.

    Raises
    ------
    ConfigError
        If the directory or file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(path, maxBytes=max_bytes, backupCount=backup_count)
    except OSError as error:
        raise ConfigError(f"log file {path}: cannot be written ({error.strerror})") from error
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    logging.getLogger().addHandler(handler)


def announce_ready(**facts: object) -> None:
    """Print the ready line, ``{"ready": {...}}`` in JSON, to stdout.

    The supervisor and the tests await this line; everything else a server has to say goes to
    stderr.

    Parameters
    ----------
    **facts
        What the starter needs to know: ports in use, prefix, URI. JSON values only.
    """
    sys.stdout.write(json.dumps({"ready": facts}) + "\n")
    sys.stdout.flush()


@contextmanager
def default_signal_handling() -> Iterator[None]:
    """Context in which SIGTERM and SIGINT end the process at once, without cleanup.

    Python's own handlers wait for the main thread, and what is left then for other threads. Only
    the main thread may call this.
    """
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """End this process, by SIGTERM to itself, when the process that started it is gone.

    The parent holds the write end of our stdin, so its death, SIGKILL included, closes it. A
    process that has not ended `STOP_LIMIT_S` later is killed. Does nothing unless the parent has
    set ``SKYWRIGHT_SUPERVISED``.
    """
    if not os.environ.get(SUPERVISED):
        return

    def wait_for_end_of_stdin() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(STOP_LIMIT_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait_for_end_of_stdin, name="lifeline", daemon=True).start()


def end_process(status: int = 0) -> NoReturn:
    """End this process at once; for a server that has closed everything it holds.

    Functions registered with `atexit` run and the standard streams are flushed. Python's own end
    also takes down each module, which takes 0.7 s with compiled kernels and several seconds on a
    busy machine, and it waits for threads that still work, such as a request without an answer.
    """
    atexit._run_exitfuncs()  # noqa: SLF001  as multiprocessing does in its children
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
            stream.flush()
    os._exit(status)


def lower_priority() -> None:
    """Lower the priority of this process, so that sessions and cameras come first.

    For processes that may be late: those of the store and of the analyses.
    """
    os.nice(5)


def share_arenas() -> None:
    """Let the threads of this process share two heaps, for servers that run for weeks.

    Limit glibc to two malloc arenas. Otherwise each thread has its own heap and freed image buffers
    are not returned to the system. It must come before the first thread, and numpy starts some when
    it is imported.
    """
    _mallopt(M_ARENA_MAX, 2)


def return_large_arrays() -> None:
    """Give the memory of each array of 1 MiB and more back to the system when it is freed.

    For processes that make many images of several MB for a moment and keep others. By default glibc
    raises this threshold up to 32 MB after the first large free; long-lived images then fragment
    the heap. The price is a page fault per 4 kB of each such array.
    """
    _mallopt(M_MMAP_THRESHOLD, LARGE_ARRAY_BYTES)


def _mallopt(option: int, value: int) -> None:
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).mallopt(option, value)


def port_number(text: str) -> int:
    """Return an argument of the command line as a port, 0 to 65535; a ``type`` of argparse.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is none; argparse says so with the argument's name.
    """
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a port, 0 to 65535")
    return int(text)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that is free for both TCP and UDP on `host` at this moment.

    It lies below the range from which the system takes the near ends of outgoing connections: a
    server that is restarted finds its port free, and no client that retries connects to itself.

    Raises
    ------
    OSError
        If none is found.
    """
    first_ephemeral = 32768
    kernel = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if kernel.is_file():
        first_ephemeral = int(kernel.read_text().split()[0])
    candidates = range(10000, first_ephemeral) if first_ephemeral > 11000 else range(49152, 65536)
    # Not the seeded generator: processes that seed it alike would try the same ports.
    for port in random.SystemRandom().sample(candidates, 200):
        if port_is_free(port, host):
            return port
    raise OSError(f"{host}: no port is free for both TCP and UDP")


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether both TCP and UDP servers could take `port` on `host` now."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: past TIME_WAIT
        try:
            tcp.bind((host, port))
            udp.bind((host, port))
        except OSError:
            return False
    return True
