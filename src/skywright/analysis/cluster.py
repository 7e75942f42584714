"""A Dask cluster that analyzes whole blocks."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from skywright.errors import ConfigError

Submit = Callable[..., Any]
"""Like `concurrent.futures.Executor.submit` and `distributed.Client.submit`."""


@contextmanager
def cluster(address: str) -> Iterator[Submit]:
    """Connect to a Dask cluster.

    Parameters
    ----------
    address
        Address of the scheduler, ``tcp://host:port``; "local" starts one, with a process per core.

    Raises
    ------
    ConfigError
        If there is no scheduler, or Dask is not installed.
    """
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ConfigError(f"Dask is not installed ({error}); install skywright[dask]") from error

    # Dask sets its logger to INFO when it is imported. Its `silence_logs` changes only its own
    # handlers, and there are none if the root logger has one.
    logging.getLogger("distributed").setLevel(logging.WARNING)
    # The live analysis of shots sends frames in the arguments of a task, so that the cluster can
    # repeat the task; Dask would warn that such a task is large.
    no_warning = dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"})
    with no_warning, ExitStack() as stack:
        scheduler: Any = address
        if address == "local":
            # Dask's dashboard needs a port although nobody uses it; the default, 8787, may be taken
            scheduler = LocalCluster(
                n_workers=os.cpu_count(), threads_per_worker=1, dashboard_address="127.0.0.1:0"
            )
            stack.enter_context(scheduler)
        try:
            client = stack.enter_context(Client(scheduler, timeout=10))
        except (OSError, ValueError) as error:
            raise ConfigError(f"no Dask scheduler at {address}: {error}") from error
        if address == "local":
            client.run(_ignore_interrupts)
        yield partial(client.submit, pure=False)


def _ignore_interrupts() -> None:
    """Ignore Ctrl-C, which all processes of a terminal get: the main process decides what ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
