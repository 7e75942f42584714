"""What an analysis found last, read out of the catalog."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiled.client.container import Container

from skywright.callbacks.derived import ARRAYS, RESULT
from skywright.store.export.contents import read_contents
from skywright.store.show import final_results


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
        By name; () for a scalar or text. Empty before the first result.
    """
    contents = read_contents(run, only=(RESULT, ARRAYS))
    found = {name: np.asarray(value) for name, value in final_results(contents).items()}
    for stream in filter(None, map(contents.stream, (RESULT, ARRAYS))):
        for column in stream.columns:
            if len(column.shape) > 1 and column.shape[0]:
                found[column.name] = column.read(slice(column.shape[0] - 1, None))[0]
    return found
