"""A Dask cluster that analyzes whole blocks."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

    # At its import Dask sets the level INFO. Its `silence_logs` changes only handlers of its own,
    # and there are none if the root logger has one.
    logging.getLogger("distributed").setLevel(logging.WARNING)
    # Frames of running shots go with their task, so that the cluster can do it again.
    no_warning = dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"})
    if address == "local":
        with (
            no_warning,
            # Its page needs a port although nobody looks at it; 8787 may be taken
            LocalCluster(
                n_workers=os.cpu_count(), threads_per_worker=1, dashboard_address="127.0.0.1:0"
            ) as here,
            Client(here) as client,
        ):
            client.run(_ignore_interrupts)
            yield partial(client.submit, pure=False)
        return
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no Dask scheduler at {address}: {error}") from error
    with no_warning, client:
        yield partial(client.submit, pure=False)


def _ignore_interrupts() -> None:
    """Ignore Ctrl-C, which goes to all processes of a terminal: the first one decides what ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
