"""Files that no reader takes, or whose reader fails: the run is stored, and others too."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from store.recording import Recording, array, scalar

from skywright.store.ingest import State, ingest
from skywright.store.recover import recover


def with_file(
    journals: Path, uri: str, key: dict[str, Any], mimetype: str = "application/x-hdf5"
) -> Recording:
    """Record a run with two rows of a file and two events."""
    recording = Recording(journals)
    recording.stream("primary", x={**key, "external": "STREAM:"}, y=scalar("number"))
    descriptor = recording._streams["primary"].descriptor_doc["uid"]
    file = recording.run.compose_stream_resource(
        mimetype=mimetype, uri=uri, data_key="x", parameters={"dataset": "/x"}
    ).stream_resource_doc
    recording.journal("stream_resource", file)
    datum = {"uid": "d", "stream_resource": file["uid"], "descriptor": descriptor}
    datum |= {"indices": {"start": 0, "stop": 2}, "seq_nums": {"start": 1, "stop": 3}}
    recording.journal("stream_datum", datum)
    recording.events([{"y": 1.0}, {"y": 2.0}])
    return recording


def hdf5(path: Path, values: Any) -> str:
    with h5py.File(path, "w") as file:
        file["x"] = values
    return f"file://localhost{path}"


@pytest.mark.parametrize("uri", ["s3://bucket/file.h5", "nonsense"])
@pytest.mark.parametrize("ended", [True, False])
def test_no_file_of_this_machine(journals: Path, client: Any, uri: str, ended: bool) -> None:
    recording = with_file(journals, uri, array([None, 3]))
    if ended:
        recording.stop()
    recording.journal.close()
    assert ingest(recording.path, client) is State.DONE
    run = client["raw"][recording.uid]
    assert run["primary"].read()["y"].values.tolist() == [1.0, 2.0]
    assert recover(journals.parent, client).changes == 0


@pytest.mark.parametrize("values", [3.0, {}])
def test_dataset_without_rows(journals: Path, client: Any, values: Any) -> None:
    path = journals / "odd.h5"
    if values == {}:
        with h5py.File(path, "w") as file:
            file.create_group("x")
    else:
        hdf5(path, values)
    recording = with_file(journals, f"file://localhost{path}", scalar("number", dtype_numpy="<f8"))
    recording.journal.close()
    assert ingest(recording.path, client) is State.DONE


@pytest.mark.parametrize(
    ("key", "values"),
    [
        (scalar("string"), np.array([b"one", b"two"])),
        (scalar("string", dtype_numpy="|S3"), np.array([b"one", b"two"])),
        (scalar("integer"), np.array([2**60 + 1, 2**60 + 3])),
        (scalar("integer", dtype_numpy="<i8"), np.array([2**60 + 1, 2**60 + 3])),
        (scalar("number", dtype_numpy="<i8"), np.array([2**60 + 1, 2**60 + 3])),
        (scalar("boolean"), np.array([True, False])),
    ],
)
def test_columns_come_back_as_they_are(journals: Path, client: Any, key: Any, values: Any) -> None:
    recording = with_file(journals, hdf5(journals / "f.h5", values), key)
    assert ingest(recording.stop(), client) is State.DONE
    run = client["raw"][recording.uid]
    read = run["primary"].read()["x"].values, run["primary"]["x"].read()
    for each in read:
        np.testing.assert_array_equal(each.astype(values.dtype), values)
