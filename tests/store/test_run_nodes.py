"""What a server of tiled gets of a run, without one: in one request, or node by node."""

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from skywright.store.run_nodes import WRITE_RUN, CatalogServer
from skywright.store.tiled_writer import RunWriter


class Node:
    """A node of a server that has none of our routes; all nodes share a list of calls."""

    def __init__(self, calls: list[Any], path: tuple[str, ...] = ()) -> None:
        self._calls, self._path = calls, path
        self._below: dict[str, Node] = {}

    def new(self, family: str, sources: Any, *, key: str, access_tags: Any, **_: Any) -> "Node":
        self._calls.append(("made", (*self._path, key), access_tags))
        self._below[key] = Node(self._calls, (*self._path, key))
        return self._below[key]

    def write_array(self, array: Any, *, key: str, access_tags: Any, **_: Any) -> "Node":
        return self.new("array", [], key=key, access_tags=access_tags)

    def append_partition(self, partition: int, rows: Any) -> None: ...

    def update_metadata(self, metadata: Any, *, drop_revision: bool) -> None:
        self._calls.append(("updated", self._path, deepcopy(metadata)))

    def keys(self) -> list[str]:
        return [*self._below]

    def delete_contents(self, keys: list[str], *, recursive: bool, external_only: bool) -> None:
        assert (recursive, external_only) == (True, False)
        for key in keys:
            del self._below[key]

    def replace_metadata(self, *, metadata: Any, specs: list[Any], drop_revision: bool) -> None:
        self._calls.append(("replaced", self._path, metadata, [spec.name for spec in specs]))

    def close_stream(self) -> None:
        self._calls.append(("closed", self._path))

    def __getitem__(self, keys: str | tuple[str, ...]) -> "Node":
        first, *others = (keys,) if isinstance(keys, str) else keys
        return self._below[first][tuple(others)] if others else self._below[first]


def writer_of_single_nodes(*stored: tuple[str, str]) -> tuple[RunWriter, list[Any]]:
    """Make a writer whose server takes each node in a request; the list has the calls.

    The server has the nodes `stored`, with their parents.
    """
    calls: list[Any] = []
    root = Node(calls)
    for run, stream in stored:
        root.new("container", [], key=run, access_tags=None)
        root[run].new("container", [], key=stream, access_tags=None)
    calls.clear()
    catalog: Any = SimpleNamespace(container_of=lambda _: root, post=lambda *_: None)
    start = {"uid": "u", "time": 1.0, "tiled_access_tags": ["beamline"]}
    return RunWriter(catalog, start), calls


def test_single_nodes_have_the_access_tags_of_the_run_and_end_before_it() -> None:
    """A server with an access policy takes each node in a request of its own."""
    writer, calls = writer_of_single_nodes()
    writer.descriptor({"name": "primary", "uid": "d"})
    stream = writer.streams["primary"]
    stream.add_event({"seq_num": 1, "time": 1.0, "x": 0.5, "a": np.zeros(2)})
    keys = {"x": {"dtype": "number"}, "a": {"dtype": "array", "dtype_numpy": "<f8"}}
    stream.queue_events(keys)
    writer.send()
    stream.send_arrays(keys)
    made = [call[1:] for call in calls]
    nodes = [("u",), ("u", "primary"), ("u", "primary", "internal"), ("u", "primary", "a")]
    assert made == [(path, ["beamline"]) for path in nodes]
    writer.stop({"uid": "s"}, [])
    assert calls[4] == ("updated", ("u",), {"stop": {"uid": "s"}})
    assert [len(path) for _, path in calls[5:]] == [3, 3, 2, 1]


def test_each_later_configuration_is_kept() -> None:
    writer, calls = writer_of_single_nodes()
    for uid in "def":
        writer.descriptor({"name": "primary", "uid": uid, "time": 1.0})
        writer.send()
    writer.send()
    updates = [call[2]["_config_updates"] for call in calls if call[0] == "updated"]
    assert [[each["uid"] for each in update] for update in updates] == [["e"], ["e", "f"]]


def test_a_run_that_is_there_is_emptied_and_keeps_its_specs() -> None:
    writer, calls = writer_of_single_nodes(("u", "dark"))
    writer.take_over()
    assert calls == [("replaced", ("u",), {"start": {"uid": "u", "time": 1.0}}, ["BlueskyRun"])]
    writer.descriptor({"name": "dark", "uid": "d"})
    writer.send()
    assert calls[1:] == [("made", ("u", "dark"), ["beamline"])]


def post(status: int) -> tuple[Any, CatalogServer]:
    """Post to a server that answers with this status."""
    answer = httpx.Response(status, request=httpx.Request("POST", "http://x"))
    context = SimpleNamespace(http_client=SimpleNamespace(post=lambda *_, **__: answer))
    catalog = CatalogServer(None)
    container = SimpleNamespace(context=context, uri="http://x/api/v1/metadata/raw")
    return catalog.post(container, WRITE_RUN, {}), catalog


@pytest.mark.parametrize("status", [404, 405, 501])  # 501: it has an access policy or webhooks
def test_a_server_without_our_routes_is_reported(
    caplog: pytest.LogCaptureFixture, status: int
) -> None:
    answer, catalog = post(status)
    assert answer is None
    assert not catalog.routes
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("status", [409, 424, 500, 503])
def test_another_answer_is_an_error(status: int) -> None:
    with pytest.raises(httpx.HTTPStatusError):
        post(status)
