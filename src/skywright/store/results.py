"""What an analysis found last, read out of the catalog."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiled.client.container import Container

from skywright.callbacks.derived import ARRAYS, RESULT


def last_result(run: Container) -> dict[str, NDArray[Any]]:
    """Return the last results of a derived run, scalars and arrays.

    Parameters
    ----------
    run
        tiled client of the derived run, of any age: in old catalogs the arrays are in the stream
        ``result`` with the scalars.

    Returns
    -------
    dict
        By name; () for a scalar or text.
    """
    last = run[RESULT].read().isel(time=-1)
    times = ("time", "seq_num")
    found = {
        str(key): np.asarray(last[key].values)
        for key in last.data_vars
        if key not in times and not str(key).startswith("ts_")
    }
    if ARRAYS not in run:
        return found
    arrays = run[ARRAYS]
    nodes = dict(arrays.base.items())  # one request for all of them
    for name in arrays:
        if name != "update_number":
            node = nodes[name] if name in nodes else arrays[name]
            found[name] = np.asarray(node[-1:])[0]
    return found
