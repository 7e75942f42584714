"""A Dask cluster that analyzes whole blocks."""

import os
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
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ConfigError(f"Dask is not installed ({error}); install skywright[dask]") from error

    if address == "local":
        with (
            LocalCluster(
                n_workers=os.cpu_count(), threads_per_worker=1, dashboard_address=None
            ) as here,
            Client(here) as client,
        ):
            yield partial(client.submit, pure=False)
        return
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no Dask scheduler at {address}: {error}") from error
    with client:
        yield partial(client.submit, pure=False)
