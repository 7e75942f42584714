"""A stored run as xarray: images by time, with exact nanoseconds and the module of each."""

from typing import Any

import numpy as np

from skywright.errors import DataError
from skywright.instruments.panoseti.products import PRODUCTS

CHUNK_FRAMES = 1024
"""Images that are read together: memory does not depend on the size of a run."""
COORDINATES = ("module", "quabo", "flags", "frame", "file")


def open_run(run: Any) -> dict[str, Any]:
    """Open the images of a stored run without reading them.

    Parameters
    ----------
    run
        tiled client of the run, e.g. ``stored(uid)`` in a session.

    Returns
    -------
    dict
        For each product that the run has (``img8``, ``img16``, ``ph256``, ``ph1024``) an
        `xarray.Dataset`: ``image`` (time, y, x) of all modules, one after the other, read when it
        is computed. Coordinates along ``time``: ``time`` (datetime64[ns], UTC, exact),
        ``time_ns`` (int64, the same; 0 if no board sent a packet), ``module``, ``quabo``,
        ``flags`` (see `clock.Flag`), ``file`` and ``frame`` in it, and ``number``, its row in
        the stream ``m<slot>_<product>``.

    Raises
    ------
    DataError
        If the run has no frames of a telescope.
    """
    opened = {}
    for product in PRODUCTS:
        parts = [_open_stream(run, name) for name in sorted(run) if name.endswith(f"_{product}")]
        if parts:
            opened[product] = _join(parts)
    if not opened:
        start = run.metadata["start"]
        raise DataError(f"run {start['uid']} ({start.get('plan_name', '')}) has no PFF frames")
    return opened


def _open_stream(run: Any, stream: str) -> Any:
    """Return the dataset of one module and product."""
    import dask.array
    import xarray

    product = PRODUCTS[stream.rsplit("_", 1)[1]]
    node, prefix = run[stream], _prefix(run[stream], stream)
    columns = {name: np.asarray(node[f"{prefix}_{name}"].read()) for name in ("time", *COORDINATES)}
    images = node[f"{prefix}_image"]
    # The table and the array of a run that goes on may differ in length.
    count = min(len(columns["time"]), images.shape[0])
    side = product.side
    lazy = dask.array.from_array(
        _Rows(images), chunks=(CHUNK_FRAMES, side, side), name=False, asarray=False
    )[:count]
    time_ns = columns.pop("time")[:count]
    coordinates = {name: ("time", values[:count]) for name, values in columns.items()}
    return xarray.Dataset(
        {"image": (("time", "y", "x"), lazy)},
        coords={
            "time": time_ns.astype("datetime64[ns]"),
            "time_ns": ("time", time_ns),
            **coordinates,
            "number": ("time", np.arange(count)),
            "y": np.arange(side),
            "x": np.arange(side),
        },
        attrs={"product": product.name},
    )


class _Rows:
    """An array of the catalog as dask reads it: rows by slices."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.shape, self.dtype, self.ndim = tuple(client.shape), client.dtype, len(client.shape)

    def __getitem__(self, index: Any) -> Any:
        return np.asarray(self._client[index])


def _prefix(node: Any, stream: str) -> str:
    """Return what the data keys of a stream begin with: the device's name and the stream's."""
    for key in node.metadata["data_keys"]:
        if key.endswith(f"{stream}_image"):
            return str(key).removesuffix("_image")
    raise DataError(f"stream {stream} has no images, only {', '.join(node.metadata['data_keys'])}")


def _join(parts: list[Any]) -> Any:
    import xarray

    return parts[0] if len(parts) == 1 else xarray.concat(parts, "time")
