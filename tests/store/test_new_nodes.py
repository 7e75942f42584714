"""Nodes that our route writes are those that tiled's own requests make."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from httpx import Request, Response
from store.recording import Recording, array, scalar
from store.stack import Stack
from store.test_file_tables import counted
from support.waiting import until
from tiled.client.utils import ClientError

from skywright.store import line_writer
from skywright.store.ingest import IngestState, RunIngest
from skywright.store.run_nodes import WRITE_RUN, CatalogServer

IMAGE = {"shape": [1, 4, 6], "dtype": "array", "dtype_numpy": "<u2", "external": "STREAM:"}
OWN = ("uid", "time", "run_start", "start")  # of each run


class RunOfAllKinds:
    """A run with events, arrays, a table, images and a bad file."""

    def __init__(self, journals: Path) -> None:
        self._recording = Recording(journals, sample="s1", time=1.0)
        self.uid, self.path = self._recording.uid, self._recording.path
        self._file = journals / f"{self.uid}.h5"
        self._rows = 0
        self._recording.stream("monitor", y=scalar("number"), a=array([2]))
        column = scalar("integer", dtype_numpy="<i4", external="STREAM:")
        self._recording.stream("primary", x=column, image=IMAGE, odd=IMAGE)
        self._resources = [
            self._recording.file(
                key, self._file, mimetype=f"application/{mimetype}", chunk_shape=[1, 4, 6]
            )
            for key, mimetype in (("x", "x-hdf5"), ("image", "x-hdf5"), ("odd", "x-nobody-knows"))
        ]

    def grow(self, rows: int) -> None:
        """Record one event more than rows of the file."""
        before, self._rows = self._rows, self._rows + rows
        with h5py.File(self._file, "w") as file:
            file["x"] = np.arange(self._rows, dtype="<i4")
            file["image"] = np.arange(24 * self._rows, dtype="<u2").reshape(-1, 4, 6)
        for n in range(rows + 1):
            self._recording.event("monitor", y=n / 2, a=[n, n + 1])
        for resource in self._resources:
            self._recording.rows(resource, (before, self._rows, before + 1))

    def stop(self) -> None:
        self._recording.stop()


def run_of_all_kinds(journals: Path) -> Path:
    """Return the journal of a finished run."""
    run = RunOfAllKinds(journals)
    run.grow(3)
    run.stop()
    return run.path


def store(path: Path, client: Any, *, routes: bool) -> tuple[Any, bool]:
    """Store a run; return its node, and whether the server took our route."""
    catalog = CatalogServer(client)
    catalog.routes = routes
    follower = RunIngest(path, catalog)
    while follower.step() is not IngestState.DONE:
        pass
    return client["raw"][path.stem], catalog.routes


def described(node: Any, uid: str) -> dict[str, Any]:
    """Return all that the server says of a node and those below, without what is of one run."""
    item = json.loads(json.dumps(node.item["attributes"], default=str).replace(uid, "UID"))
    for source in item["data_sources"] or []:
        del source["id"]
        source["parameters"].pop("dataset_id", None)  # place of internal rows
        for asset in source["assets"]:
            del asset["id"]
    for doc in (item["metadata"].get("start"), item["metadata"].get("stop"), item["metadata"]):
        for own in OWN:
            if isinstance(doc, dict) and not isinstance(doc.get(own), dict):
                doc.pop(own, None)
    below = getattr(node, "base", node)
    if item["structure_family"] == "container":
        item["children"] = {key: described(child, uid) for key, child in below.items()}
    return item


def test_nodes_are_the_same_in_either_way(stack: Stack, client: Any) -> None:
    found = {}
    for routes in (True, False):
        path = run_of_all_kinds(stack.directory / "assets")
        node, used = store(path, client.include_data_sources(), routes=routes)
        assert used == routes
        found[routes] = described(node.include_data_sources(), path.stem)
        assert node["primary"].read()["image"].shape == (3, 1, 4, 6)
        assert node["monitor"].read()["y"].values.tolist() == [0.0, 0.5, 1.0, 1.5]
    assert found[True]["metadata"]["unreadable_files"].keys() == {"primary/odd"}
    for each in found.values():  # the reasons are in the words of the server, or of the route
        del each["metadata"]["unreadable_files"], each["metadata"]["notes"]
    assert found[True] == found[False]
    assert set(found[True]["children"]["primary"]["children"]) == {"columns", "image"}


def test_a_run_that_grows_is_the_same_in_either_way(
    stack: Stack, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are appended and files grow while the run is stored; subscribers hear of the rows."""
    monkeypatch.setattr(line_writer, "UPDATE_S", (0.0, 0.0))
    found, told = {}, {}
    for routes in (True, False):
        run = RunOfAllKinds(stack.directory / "assets")
        catalog = CatalogServer(client.include_data_sources())
        catalog.routes = routes
        follower = RunIngest(run.path, catalog)
        run.grow(2)
        while follower.step() is not IngestState.IDLE:
            pass
        updates: list[Any] = []

        def tell(update: Any, updates: list[Any] = updates) -> None:
            updates.append(update)

        subscription = client["raw"][run.uid]["primary"].base["image"].subscribe()
        subscription.new_data.add_callback(tell)
        subscription.start_in_thread()
        run.grow(3)
        with counted(client) as requests:
            follower.step()
        if routes:  # the rows and the files in one; the array of events has one of its own
            assert len([each for each in requests if "/custom/" in each]) == 1
        until(lambda updates=updates: updates, what="the new images are announced")
        subscription.disconnect()
        told[routes] = updates[0].model_dump()
        run.stop()
        while follower.step() is not IngestState.DONE:
            pass
        node = client["raw"][run.uid]
        found[routes] = described(node.include_data_sources(), run.uid)
        assert node["primary"].read()["image"].shape == (5, 1, 4, 6)
        assert node["monitor"].read()["y"].values.tolist() == [0.0, 0.5, 1.0, 0.0, 0.5, 1.0, 1.5]
    assert found[True].pop("metadata").keys() == found[False].pop("metadata").keys()
    assert found[True] == found[False]
    assert told[True]["patch"] == {"offset": (2, 0, 0, 0), "shape": (3, 1, 4, 6)}
    assert told[True]["patch"] == told[False]["patch"]


def test_subscribers_are_told_the_same_in_either_way(stack: Stack, client: Any) -> None:
    told: list[Any] = []

    def tell(update: Any) -> None:  # kept here: tiled holds it weakly
        told.append(update)

    subscription = client["raw"].subscribe()
    subscription.child_created.add_callback(tell)
    subscription.start_in_thread()
    uids = []
    for routes in (True, False):
        path = run_of_all_kinds(stack.directory / "assets")
        store(path, client, routes=routes)
        uids.append(path.stem)
        until(lambda: len(told) == len(uids), what="a run is announced")
    subscription.disconnect()
    for update, uid in zip(told, uids, strict=True):
        assert update.key == uid
        assert update.metadata["start"]["sample"] == "s1"
    first, second = (update.model_dump() for update in told)
    for each in (first, second):
        for own in ("key", "sequence", "timestamp"):
            del each[own]
        for own in OWN:
            each["metadata"]["start"].pop(own, None)
    assert first == second


def test_subscribers_are_told_of_the_end_with_its_specs(stack: Stack, client: Any) -> None:
    told: list[Any] = []

    def tell(update: Any) -> None:
        told.append(update)

    subscription = client["raw"].subscribe()
    subscription.child_metadata_updated.add_callback(tell)
    subscription.start_in_thread()
    for routes in (True, False):
        store(run_of_all_kinds(stack.directory / "assets"), client, routes=routes)
    until(lambda: len(told) == 2, what="two runs have ended")
    subscription.disconnect()
    first, second = ([spec.name for spec in update.specs] for update in told)
    assert first == second == ["BlueskyRun"]


def test_an_error_of_the_server_is_no_run_that_is_there(
    stack: Stack, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conflict with nothing there ends after some attempts, and other runs go on."""
    path = run_of_all_kinds(stack.directory / "assets")

    def conflict(*_: Any) -> Any:
        raise ClientError("there", request=Request("POST", "http://x"), response=Response(409))

    monkeypatch.setattr(CatalogServer, "post", conflict)
    follower = RunIngest(path, CatalogServer(client))
    states = [follower.step()]
    while states[-1] is IngestState.MORE and len(states) < 20:
        states.append(follower.step())
    assert states[-1] is IngestState.ASIDE


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"nodes": [{"id": "x", "parent": [], "structure_family": "nonsense"}]}, 422),
        ({"nodes": [{"id": "x", "parent": ["gone"], "structure_family": "container"}]}, 424),
        ({"nodes": "none"}, 422),
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(
    client: Any, body: dict[str, Any], status: int
) -> None:
    before = set(client["raw"])
    uri = client["raw"].uri.replace("/api/v1/metadata/", WRITE_RUN, 1)
    assert client.context.http_client.post(uri, json=body).status_code == status
    assert set(client["raw"]) == before


def test_a_second_node_of_a_path_is_a_conflict_and_leaves_nothing(client: Any) -> None:
    uri = client["raw"].uri.replace("/api/v1/metadata/", WRITE_RUN, 1)
    nodes = [
        {"id": name, "parent": [], "structure_family": "container"}
        for name in ("conflict-1", "conflict-1")
    ]
    assert client.context.http_client.post(uri, json={"nodes": nodes}).status_code == 409
    assert "conflict-1" not in client["raw"]
