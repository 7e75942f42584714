"""The nodes of one run in tiled: written in one request where the server can, else one by one."""

import base64
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import httpx
import pyarrow
from tiled.client.utils import ClientError, handle_error
from tiled.serialization.table import serialize_arrow
from tiled.structures.core import Spec, StructureFamily
from tiled.structures.data_source import DataSource
from tiled.utils import APACHE_ARROW_FILE_MIME_TYPE, safe_json_dump

from skywright.errors import SkywrightError
from skywright.store.client import container_name, ensure_container

WRITE_RUN = "/custom/write_run/"
FINISH_RUN = "/custom/finish_run/"
"""Routes of our own server (`skywright.store.routes`)."""
NO_ROUTE = {
    httpx.codes.NOT_FOUND,
    httpx.codes.METHOD_NOT_ALLOWED,
    httpx.codes.NOT_IMPLEMENTED,
}
"""Answers of a server that does not have these routes, or cannot use them."""

NodePath = tuple[str, ...]
"""Keys below the container of runs: (uid,), (uid, stream), or (uid, stream, table or array)."""

log = logging.getLogger(__name__)


class RunExistsError(SkywrightError):
    """The catalog has a run of this uid, which this writer has not made."""


class CatalogServer:
    """A client of the catalog: its containers of runs, and what the server has refused so far.

    Parameters
    ----------
    client
        tiled's client of the root.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.tables = True
        """False from the first refusal on: the server has no adapter for tables of columns."""
        self.routes = True
        """False from the first refusal on: the server does not have our routes, or cannot use
        them. Then each node is a request of its own."""
        self._containers: dict[str, Any] = {}

    def container_of(self, start: Mapping[str, Any]) -> Any:
        """Return the client of the container in which the run with this start document belongs."""
        name = container_name(start)
        if name not in self._containers:
            self._containers[name] = ensure_container(self.client, name).include_data_sources()
        return self._containers[name]

    def forget_containers(self) -> None:
        """Forget the clients of the containers: somebody may have deleted the containers.

        `container_of` then looks a container up again, and creates it if it is missing.
        """
        self._containers.clear()

    def post(self, container: Any, route: str, body: Mapping[str, Any]) -> Any:
        """Post to one of our routes; return its answer, None if the server does not have it.

        Parameters
        ----------
        container
            Client of ``raw`` or ``analysis``.
        route, body
            Path of the route, and the body of the request; the answer is a JSON object.

        Raises
        ------
        tiled.client.utils.ClientError
            If the server refuses the request.
        """
        if not self.routes:
            return None
        response = container.context.http_client.post(
            container.uri.replace("/api/v1/metadata/", route, 1),
            content=safe_json_dump(body),
            headers={"Content-Type": "application/json", "Accept": "application/json"},
        )
        if response.status_code in NO_ROUTE:
            log.warning(
                "tiled does not take %s (HTTP %d); each node is a request of its own",
                route,
                response.status_code,
            )
            self.routes = False
            return None
        return handle_error(response).json()


@dataclass(frozen=True)
class QueuedNode:
    """A node to be created."""

    path: NodePath
    family: StructureFamily
    metadata: Mapping[str, Any]
    specs: tuple[Spec, ...] = ()
    source: DataSource | None = None
    rows: pyarrow.Table | None = None
    """First rows of a table that grows by appending."""


@dataclass(frozen=True)
class QueuedSource:
    """A new data source of a node that was created."""

    path: NodePath
    source: DataSource
    patch: Mapping[str, tuple[int, ...]] | None
    """Of an array: ``shape`` and ``offset`` of its new rows; else None."""


class RunNodes:
    """Writes the nodes of a run and gives clients of them.

    Parameters
    ----------
    catalog
        The server.
    start
        The start document.
    tags
        Access tags of all nodes.
    """

    def __init__(self, catalog: CatalogServer, start: Mapping[str, Any], tags: Any) -> None:
        self._catalog = catalog
        self._container = catalog.container_of(start)
        self._tags = tags
        self._queued: list[QueuedNode] = []
        self._rows: list[tuple[NodePath, pyarrow.Table]] = []
        self._sources: list[QueuedSource] = []
        self._made: set[NodePath] = set()
        self._clients: dict[NodePath, Any] = {}

    def queue_node(self, node: QueuedNode) -> None:
        """Queue a node, whose parent has been queued before; `send` creates it."""
        self._queued.append(node)

    def queue_rows(self, path: NodePath, rows: pyarrow.Table) -> None:
        """Queue rows for a table that was created; `send` appends them."""
        self._rows.append((path, rows))

    def queue_source(self, path: NodePath, source: DataSource, old: DataSource) -> None:
        """Queue the new data source of a node that was created; `send` replaces the old one."""
        patch = None
        if source.structure_family == StructureFamily.array:
            rows, *rest = source.structure.shape
            before = old.structure.shape[0]
            patch = {"shape": (rows - before, *rest), "offset": (before, *(0 for _ in rest))}
        self._sources.append(QueuedSource(path, source, patch))

    def send(self) -> dict[NodePath, str]:
        """Send all that is queued, once; after a lost reply the caller begins a full write.

        Returns
        -------
        dict
            For each node that the server cannot read: the path, and the reason.

        Raises
        ------
        RunExistsError
            If the catalog has a run of this uid.
        """
        nodes, rows, sources = self._queued, self._rows, self._sources
        self._queued, self._rows, self._sources = [], [], []
        if not (nodes or rows or sources):
            return {}
        body = {
            "nodes": [self._as_json(node) for node in nodes],
            "rows": [{"path": path, "rows": _as_text(table)} for path, table in rows],
            "sources": [asdict(changed) for changed in sources],
        }
        try:
            answer = self._catalog.post(self._container, WRITE_RUN, body)
            refused = answer["refused"] if answer else self._send_singly(nodes, rows, sources)
        except ClientError as error:
            conflict = error.response.status_code == httpx.codes.CONFLICT
            if conflict and nodes and not self._made:
                raise RunExistsError(f"{nodes[0].path[0]} is in the catalog") from error
            raise
        reasons = {tuple(each["path"]): each["reason"] for each in refused}
        self._made |= {node.path for node in nodes} - reasons.keys()
        return reasons

    def take_over(self, run: QueuedNode) -> None:
        """Use the run's node that is in the catalog: delete its children, replace its metadata.

        The nodes that are queued are dropped.
        """
        self._queued.clear()
        existing = self.client(run.path)
        existing.delete_contents(list(existing.keys()), recursive=True, external_only=False)
        existing.replace_metadata(metadata=run.metadata, specs=list(run.specs), drop_revision=True)
        self._made.add(run.path)

    def client(self, path: NodePath) -> Any:
        """Return tiled's client of a node that was created; for a run or stream see `_plain`."""
        if path not in self._clients:
            uid, *below = path
            node = self.client((uid,))[tuple(below)] if below else self._container[uid]
            self._clients[path] = _plain(node)
        return self._clients[path]

    def write_array(
        self, path: NodePath, array: Any, metadata: Mapping[str, Any], dims: tuple[str, ...]
    ) -> None:
        """Create an array of events with its first rows; its parent has been created."""
        self._clients[path] = self.client(path[:-1]).write_array(
            array, key=path[-1], metadata=metadata, dims=dims, access_tags=self._tags
        )
        self._made.add(path)

    def finish(self, uid: str, metadata: Mapping[str, Any]) -> None:
        """Add metadata to the run; tell the subscribers of its nodes that no more updates come."""
        body = {"id": uid, "metadata": metadata}
        if self._catalog.post(self._container, FINISH_RUN, body) is not None:
            return
        self.client((uid,)).update_metadata(metadata=metadata, drop_revision=True)
        for path in sorted(self._made, key=len, reverse=True):
            self.client(path).close_stream()

    def _send_singly(
        self,
        nodes: list[QueuedNode],
        rows: list[tuple[NodePath, pyarrow.Table]],
        sources: list[QueuedSource],
    ) -> list[dict[str, Any]]:
        refused = []
        for node in nodes:
            parent = self.client(node.path[:-1]) if node.path[:-1] else self._container
            try:
                client = parent.new(
                    node.family,
                    [node.source] if node.source else [],
                    key=node.path[-1],
                    metadata=node.metadata,
                    specs=list(node.specs),
                    access_tags=self._tags,
                )
            except ClientError as error:
                if error.response.status_code != httpx.codes.UNSUPPORTED_MEDIA_TYPE:
                    raise
                refused.append({"path": node.path, "reason": str(error)})
                continue
            self._clients[node.path] = _plain(client)
            self._made.add(node.path)
            if node.rows is not None:
                client.append_partition(0, node.rows)
        for path, table in rows:
            self.client(path).append_partition(0, table)
        for changed in sources:
            self._put_source(changed)
        return refused

    def _put_source(self, changed: QueuedSource) -> None:
        node = self.client(changed.path)
        source = replace(changed.source, id=node.data_sources()[0].id)
        patch = {f"patch_{k}": ",".join(map(str, v)) for k, v in (changed.patch or {}).items()}
        uri = node.uri.replace("/metadata/", "/data_source/", 1)
        content = safe_json_dump({"data_source": source})
        handle_error(node.context.http_client.put(uri, content=content, params=patch or None))

    def _as_json(self, node: QueuedNode) -> dict[str, Any]:
        return {
            "parent": node.path[:-1],
            "id": node.path[-1],
            "structure_family": node.family,
            "metadata": node.metadata,
            "specs": [asdict(spec) for spec in node.specs],
            "data_sources": [asdict(node.source)] if node.source else [],
            "access_tags": self._tags,
            "rows": None if node.rows is None else _as_text(node.rows),
        }


def _as_text(rows: pyarrow.Table) -> str:
    """Return rows as an Arrow file in base64."""
    return base64.b64encode(serialize_arrow(APACHE_ARROW_FILE_MIME_TYPE, rows, {})).decode()


def _plain(node: Any) -> Any:
    """Return the plain container of a run or stream, whose own client shows other children."""
    with suppress(AttributeError):
        return node.base
    return node
