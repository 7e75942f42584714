"""What every test shares: loopback Channel Access on its own ports, test data, an engine."""

import gc
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

import hypothesis
import pytest
from schedule import (  # noqa: F401
    import_own_share_first,
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_runtest_logreport,
    pytest_sessionfinish,
    pytest_xdist_make_scheduler,
)
from support import forked
from support.absent import absent

from skywright.processes import child
from skywright.processes.ports import free_port
from skywright.rooms import PACKAGES

# How long an example takes says more about the machine than about the code. Each run tries other
# examples, but in CI, where hypothesis repeats them, always the same ones.
# ``--hypothesis-profile thorough`` tries many in one run.
hypothesis.settings.register_profile("any machine", deadline=None, max_examples=50)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("any machine")

CA_PORTS = 12


def _free_ports(count: int) -> list[int]:
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)


# pyepics, caproto and numpy read these when first imported, which a test module may do at
# collection, and xdist's workers and all children inherit them. OpenBLAS gets one thread: several
# that share two cores with other processes wait for one another spinning, and a small matrix then
# costs ten times the processor time and more.
_repeater, *_ports = _free_ports(1 + CA_PORTS)
os.environ.update(
    EPICS_CA_AUTO_ADDR_LIST="NO",
    EPICS_CA_ADDR_LIST=" ".join(f"127.0.0.1:{port}" for port in _ports),
    EPICS_CA_MAX_ARRAY_BYTES="40000000",
    EPICS_CA_REPEATER_PORT=str(_repeater),
    EPICS_CAS_INTF_ADDR_LIST="127.0.0.1",
    EPICS_CAS_AUTO_BEACON_ADDR_LIST="NO",
    EPICS_CAS_BEACON_ADDR_LIST="127.0.0.1",
    SKYWRIGHT_TEST_CA_PORTS=",".join(map(str, _ports)),
    MPLBACKEND="Agg",
    OPENBLAS_NUM_THREADS="1",
)


# Before anything imports it: the workers of analyses and the like are forked.
child.start_module = forked.start_module


def pytest_configure(config: pytest.Config) -> None:
    """Have one process that forks for all workers of xdist."""
    if config.getoption("numprocesses", None):
        forked.SERVER.ensure_running()


def pytest_unconfigure() -> None:
    """End the fork server, if this process started it."""
    forked.SERVER.stop()


@pytest.hookimpl(hookwrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Import without garbage collection: a million objects are made, and stay to the end."""
    thresholds = gc.get_threshold()
    # Not `gc.disable`: each slice of a dask that is imported meanwhile would disable it again
    gc.set_threshold(0)
    import_own_share_first(session)
    yield
    gc.collect()
    gc.freeze()
    gc.set_threshold(*thresholds)


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Take back what a command that runs in this process did to the log: others read it."""
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, PACKAGES)]
    levels, handlers = [logger.level for logger in loggers], list(root.handlers)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    for handler in set(root.handlers) - set(handlers):
        if type(handler) in (logging.StreamHandler, RotatingFileHandler):  # not those of pytest
            root.removeHandler(handler)
            handler.close()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Directory of the real test files (loop/, epu/, panoseti/ ...)."""
    named = os.environ.get("SKYWRIGHT_TEST_DATA")
    directory = Path(named) if named else Path(__file__).parents[1].parent / "shared" / "data"
    if not directory.is_dir():
        absent(f"no test data at {directory}; set SKYWRIGHT_TEST_DATA")
    return directory


@pytest.fixture(scope="session")
def redis_port() -> int:
    """Port of a Redis server on this machine."""
    try:
        socket.create_connection(("127.0.0.1", 6379), timeout=1).close()
    except OSError as error:
        absent(f"no Redis at 127.0.0.1:6379 ({error})")
    return 6379


@pytest.fixture(scope="session")
def postgres_uri() -> str:
    """URI of a PostgreSQL server on this machine that lets us make databases."""
    try:
        socket.create_connection(("127.0.0.1", 5432), timeout=1).close()
    except OSError as error:
        absent(f"no PostgreSQL at 127.0.0.1:5432 ({error})")
    return "postgresql://127.0.0.1:5432"


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    """URL of a RabbitMQ server on this machine that lets us make queues."""
    try:
        socket.create_connection(("127.0.0.1", 5672), timeout=1).close()
    except OSError as error:
        absent(f"no RabbitMQ at 127.0.0.1:5672 ({error})")
    return "amqp://guest:guest@127.0.0.1:5672/"


@pytest.fixture(scope="session")
def rabbitmq_server() -> Path:
    """Program that starts a RabbitMQ node, for tests that kill it."""
    program = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # the one on PATH needs root
    if not program.exists() or shutil.which("erl") is None:
        absent(f"no RabbitMQ server at {program}")
    return program


@pytest.fixture(scope="session")
def chromium() -> Path:
    """Path of a Chromium that a test may drive; its chromedriver is on PATH too."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None or shutil.which("chromedriver") is None:
        absent("no chromium with chromedriver on PATH")
    return Path(browser)


@pytest.fixture
def RE() -> Iterator[object]:
    """Fresh engine that gives results; a run left open or paused does not harm the next test."""
    from bluesky import RunEngine

    engine = RunEngine(call_returns_result=True)
    yield engine
    if engine.state != "idle":
        engine.halt()
