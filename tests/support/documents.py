"""The documents of runs, for tests that read them as they are emitted."""

from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
from bluesky_tiled_plugins.writing.consolidators import HDF5Consolidator

Documents = list[tuple[str, dict[str, Any]]]


def of(documents: Documents, name: str) -> list[dict[str, Any]]:
    return [doc for each, doc in documents if each == name]


def file_of(documents: Documents, key: str) -> Path:
    """Return the file that holds a data key."""
    resources = of(documents, "stream_resource")
    return Path(next(urlparse(doc["uri"]).path for doc in resources if doc["data_key"] == key))


def assembled(documents: Documents, stream: str = "primary") -> dict[str, np.ndarray]:
    """Put the external data of a stream together as tiled does: data key to array."""
    (descriptor,) = (doc for doc in of(documents, "descriptor") if doc["name"] == stream)
    arrays = {}
    for resource in of(documents, "stream_resource"):
        told = (resource["uid"], descriptor["uid"])
        data = [
            datum
            for datum in of(documents, "stream_datum")
            if (datum["stream_resource"], datum["descriptor"]) == told
        ]
        if not data:
            continue
        consolidator = HDF5Consolidator(resource, descriptor)
        for datum in data:
            consolidator.consume_stream_datum(datum)
        array = np.asarray(consolidator.init_adapter().read())
        assert array.shape == consolidator.shape
        assert array.dtype == consolidator.data_type.to_numpy_dtype()
        arrays[resource["data_key"]] = array
    return arrays
