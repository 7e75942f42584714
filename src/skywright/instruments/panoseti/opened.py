"""A stored run as xarray: images by time, with exact nanoseconds and the module of each."""

from typing import Any

import numpy as np

from skywright.errors import DataError
from skywright.instruments.panoseti.products import PRODUCTS
from skywright.store.stream_rows import StreamRows

CHUNK_FRAMES = 1024
"""Images that are read together: memory does not depend on the size of a run."""
CHUNK_ROWS = 65536
"""Values of a coordinate that are read together."""
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
        the stream ``m<slot>_<product>``. Only ``time``, the index, is in memory: 8 bytes a frame.

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
    node = run[stream]
    prefix = _prefix(node, stream)
    rows, keys = StreamRows(node), node.metadata["data_keys"]
    times = rows.whole([f"{prefix}_time"])[f"{prefix}_time"]
    # The columns of a run that goes on may differ in length.
    arrays = [part for part in rows.parts.values() if part.structure_family == "array"]
    count = min([len(times), *(array.shape[0] for array in arrays)])
    side = product.side

    def lazy(name: str, *chunks: int) -> Any:
        key = f"{prefix}_{name}"
        shape, dtype = (count, *chunks[1:]), np.dtype(keys[key]["dtype_numpy"])
        # Without `meta` dask would read rows to learn what they are
        options = {"name": False, "asarray": False, "meta": np.empty([0] * len(shape), dtype)}
        return dask.array.from_array(_Rows(rows, key, shape, dtype), chunks=chunks, **options)

    return xarray.Dataset(
        {"image": (("time", "y", "x"), lazy("image", CHUNK_FRAMES, side, side))},
        coords={
            "time": times[:count].view("datetime64[ns]"),
            **{name: ("time", lazy(name, CHUNK_ROWS)) for name in COORDINATES},
            "time_ns": ("time", lazy("time", CHUNK_ROWS)),
            "number": ("time", dask.array.arange(count, chunks=CHUNK_ROWS)),
            "y": np.arange(side),
            "x": np.arange(side),
        },
        attrs={"product": product.name},
    )


class _Rows:
    """A column of a stream as dask reads it: rows by a slice, a number or an array of numbers."""

    def __init__(
        self, rows: StreamRows, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self._rows, self._key = rows, key
        self.shape, self.dtype, self.ndim = shape, dtype, len(shape)

    def __getitem__(self, index: Any) -> Any:
        first, *others = index if isinstance(index, tuple) else (index,)
        numbers = np.arange(self.shape[0])[first]  # one number, or an array of them, in any order
        read = np.unique(numbers)
        taken = np.asarray(self._rows.take([self._key], read)[self._key])
        wanted = taken[np.searchsorted(read, numbers)]
        return wanted[(*(slice(None) for _ in numbers.shape), *others)]


def _prefix(node: Any, stream: str) -> str:
    """Return what the data keys of a stream begin with: the device's name and the stream's."""
    for key in node.metadata["data_keys"]:
        if key.endswith(f"{stream}_image"):
            return str(key).removesuffix("_image")
    raise DataError(f"stream {stream} has no images, only {', '.join(node.metadata['data_keys'])}")


def _join(parts: list[Any]) -> Any:
    import xarray

    return parts[0] if len(parts) == 1 else xarray.concat(parts, "time")
