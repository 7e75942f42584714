"""Clients of the store: the root, and the catalogs sorted by time."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
from tiled.client import from_uri
from tiled.client import utils as tiled_utils
from tiled.client.utils import ClientError
from tiled.structures.core import Spec

from skywright.config import Settings, load_settings
from skywright.errors import ConfigError
from skywright.store import RETRY_ATTEMPTS, RETRY_TIMEOUT_S
from skywright.store.growing import growing_clients

RAW, ANALYSIS = "raw", "analysis"
BY_TIME = ("start.time", 1)
READ_LIMIT_S = 60.0
"""Time, s, after which a request without an answer fails."""
WAIT_S, WAIT_PERIOD_S = 5.0, 30.0
"""Time, s, after which a request that goes on is reported, and least time between reports."""

# tiled has read its environment already if a script imported it before us.
tiled_utils.TILED_RETRY_ATTEMPTS = int(RETRY_ATTEMPTS)
tiled_utils.TILED_RETRY_TIMEOUT = float(RETRY_TIMEOUT_S)


def connect(
    uri: str | None = None,
    api_key: str | None = None,
    settings: Settings | None = None,
    on_wait: Callable[[str], object] | None = None,
) -> Any:
    """Connect to the tiled server that holds the store.

    Parameters
    ----------
    uri, api_key
        The server, e.g. ``http://127.0.0.1:8000``. By default the one of the configuration,
        else the one that ``skywright up`` has started.
    settings
        The configuration, read when not given.
    on_wait
        Called with a message for a person when a request takes longer than `WAIT_S`, on a thread of
        its own. It also gets the later requests of the client that is returned.

    Returns
    -------
    Container
        tiled's client of the root; `catalog`, `analysis` and `broker` are views of it.

    Raises
    ------
    ConfigError
        When no server is known, there is no tiled server, or it refuses the key.
    """
    absent = "start it with `skywright up`, or correct store.tiled_uri"
    if uri is None or api_key is None:
        settings = settings or load_settings()
        uri = uri or settings.store.tiled_uri
        if not uri:
            uri = _running_server(settings.directory)
            log = settings.directory / "logs" / "tiled.log"
            absent = f"the running `skywright up` starts it again; if it stays away, look at {log}"
        api_key = api_key or settings.store.api_key or embedded_key(settings.directory)
    timeout = httpx.Timeout(connect=2.0, read=READ_LIMIT_S, write=60.0, pool=10.0)
    reporting = _wait_reporter(uri, on_wait) if on_wait else lambda function: function
    try:
        client = reporting(from_uri)(
            uri,
            growing_clients(),
            api_key=api_key,
            timeout=timeout,
            trust_env=trusts_environment(uri),
        )
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        advice = "check store.api_key" if status in (401, 403) else "is it a tiled server?"
        raise ConfigError(f"store: the server at {uri} answers {status}; {advice}") from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # ValueError: no JSON
        raise ConfigError(f"store: no tiled server at {uri} ({error}); {absent}") from error
    if on_wait:
        http_client = client.context.http_client
        http_client.send = reporting(http_client.send)
    return client


def _wait_reporter(
    uri: str, on_wait: Callable[[str], object]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator: a call of its functions that takes longer than `WAIT_S` is reported."""
    reported_s = -math.inf

    def report() -> None:
        nonlocal reported_s
        if time.monotonic() - reported_s > WAIT_PERIOD_S:
            reported_s = time.monotonic()
            on_wait(
                f"waiting for the tiled server at {uri}: a request takes longer than {WAIT_S:g} s; "
                f"it fails after {READ_LIMIT_S:g} s without an answer; Ctrl-C ends the wait; "
                "`skywright doctor` tells what to do"
            )

    def reporting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            timer = threading.Timer(WAIT_S, report)
            timer.daemon = True
            timer.start()
            try:
                return function(*arguments, **options)
            finally:
                timer.cancel()

        return call

    return reporting


def trusts_environment(uri: str) -> bool:
    """Return whether the first request to the server at `uri` may use the variables of httpx.

    They name certificates, which https needs, and a proxy, by which no server of this machine can
    be reached. All later requests of tiled's client go without a proxy.
    """
    return not uri.lower().startswith("http:")


def _running_server(directory: Path) -> str:
    from skywright.processes.stack import require_state

    try:
        state = require_state(directory)
    except (OSError, ConfigError) as error:
        raise ConfigError(
            f"store: no tiled server is known: {error}; run it with the configuration of this "
            "store, or set store.tiled_uri"
        ) from error
    if not state.tiled_uri:
        raise ConfigError(
            f"store: skywright up, process {state.pid}, was started without tiled (--only); start "
            "it with tiled, or set store.tiled_uri"
        )
    return state.tiled_uri


def embedded_key(directory: Path) -> str:
    """Return the key of the tiled server of a store.

    Raises
    ------
    ConfigError
        If its file cannot be read.
    """
    path = directory / "tiled" / "api_key"
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); set store.api_key or start `skywright up`"
        ) from error


def container_name(start: Mapping[str, Any]) -> str:
    """Return the name of the container in which the run with this start document belongs."""
    return ANALYSIS if start.get("purpose") == "analysis" else RAW


def ensure_containers(client: Any) -> tuple[Any, Any]:
    """Return the containers ``raw`` and ``analysis``, made when missing.

    Their spec is what gives clients partial uids, scan ids and time ranges.
    """
    return ensure_container(client, RAW), ensure_container(client, ANALYSIS)


def ensure_container(client: Any, key: str) -> Any:
    """Return the container ``raw`` or ``analysis``, made when missing."""
    try:
        return client[key]
    except KeyError:
        pass
    try:
        client.create_container(key=key, specs=[Spec("CatalogOfBlueskyRuns", version="3.0")])
    except ClientError as error:
        if error.response.status_code != httpx.codes.CONFLICT:  # somebody else was faster
            raise
    return client[key]


def catalog(client: Any) -> Any:
    """Return the raw runs sorted by start time, so that ``[-1]`` is the latest."""
    return ensure_container(client, RAW).sort(BY_TIME)


def analysis(client: Any) -> Any:
    """Return the derived runs sorted by start time."""
    return ensure_container(client, ANALYSIS).sort(BY_TIME)


def broker(client: Any) -> Any:
    """Return the raw runs as databroker's ``db``, sorted by start time."""
    from databroker import Broker

    return Broker(catalog(client))
