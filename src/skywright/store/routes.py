"""Routes that our server adds to tiled's: write the nodes of a run, or finish it, in one request.

tiled looks up each node on the path of a request, which costs more than the work itself. A server
with an access policy or webhooks refuses these requests (501): tiled itself must ask the policy, or
call the webhooks, for each node. Validators of specs do not run.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request, Security
from pydantic import Base64Bytes, BaseModel
from sqlalchemy import select
from tiled.catalog import orm
from tiled.catalog.adapter import CatalogTableAdapter
from tiled.media_type_registration import default_deserialization_registry
from tiled.server.authentication import (
    check_scopes,
    get_current_access_tags,
    get_current_principal,
    get_current_scopes,
    get_session_state,
)
from tiled.server.core import NoEntry
from tiled.server.dependencies import get_entry, get_root_tree
from tiled.server.schemas import DataSource
from tiled.stream_messages import ArrayPatch
from tiled.structures.core import StructureFamily
from tiled.utils import APACHE_ARROW_FILE_MIME_TYPE

from skywright.store.new_nodes import NewNode, NodePath, insert_nodes

SCOPES = ["write:metadata", "write:data", "create:node", "register"]
NOT_FOUND, FAILED_DEPENDENCY, NOT_IMPLEMENTED = 404, 424, 501
"""Status codes. A missing parent gets 424: 404 says that the server lacks these routes."""

router = APIRouter()


class MoreRows(BaseModel):
    """Rows for a table of events, as an Arrow file."""

    path: NodePath
    rows: Base64Bytes


class ChangedSource(BaseModel):
    """The data source of a node that is there; for an array, which rows are new."""

    path: NodePath
    source: DataSource
    patch: ArrayPatch | None = None


class RunPart(BaseModel):
    """What is to be written: first the new nodes, then what changes of those that are there."""

    nodes: list[NewNode] = []
    rows: list[MoreRows] = []
    sources: list[ChangedSource] = []


class Finish(BaseModel):
    """The end of a run."""

    id: str
    metadata: dict[str, Any]
    """Metadata to add: stop document, notes, files that cannot be read."""


async def container_of_runs(
    request: Request,
    path: str,
    principal: Annotated[Any, Depends(get_current_principal)],
    root_tree: Annotated[Any, Depends(get_root_tree)],
    session_state: Annotated[dict[str, Any], Depends(get_session_state)],
    access_tags: Annotated[Any, Depends(get_current_access_tags)],
    scopes: Annotated[Any, Depends(get_current_scopes)],
    _: Annotated[Any, Security(check_scopes, scopes=SCOPES)],
) -> Any:
    """Return tiled's adapter of the container at the path of the request."""
    if getattr(request.app.state, "access_policy", None) is not None:
        raise HTTPException(NOT_IMPLEMENTED, "this server has an access policy")
    try:
        container = await get_entry(
            path,
            SCOPES,
            principal,
            access_tags,
            scopes,
            root_tree,
            session_state,
            request.state.metrics,
            {StructureFamily.container},
        )
    except HTTPException as error:
        if error.status_code == NOT_FOUND:
            raise HTTPException(FAILED_DEPENDENCY, error.detail) from error
        raise
    if container.context.webhook_dispatcher is not None:
        raise HTTPException(NOT_IMPLEMENTED, "this server has webhooks")
    return container


@router.post("/write_run/{path:path}")
async def write_run(
    body: RunPart, container: Annotated[Any, Depends(container_of_runs)]
) -> dict[str, Any]:
    """Write a part of a run; answer with the new nodes that have no adapter, and why.

    External nodes and containers come first, all or none, then each table of events. If a request
    fails at a table, the run's node stays in the catalog, and the next request that creates it
    gets a conflict (409).
    """
    refused = await _create_nodes(container, body.nodes)
    for more in body.rows:
        await _append_rows(await _below(container, more.path), more.rows)
    for changed in body.sources:
        node = await _below(container, changed.path)
        own = changed.source.model_copy(update={"id": node.node.data_sources[0].id})
        await node.put_data_source(own, changed.patch)
    return {"refused": [{"path": path, "reason": why} for path, why in refused.items()]}


async def _create_nodes(container: Any, nodes: list[NewNode]) -> dict[NodePath, str]:
    context = container.context
    refused = {
        new.path: f"no adapter for {source.mimetype}"
        for new in nodes
        for source in new.data_sources
        if new.is_external and source.mimetype not in context.adapters_by_mimetype
    }
    wanted = [new for new in nodes if new.path not in refused]
    parents: dict[NodePath, Any] = {(): container}
    for path in {new.parent for new in wanted} - {new.path for new in wanted}:
        parents[path] = await _below(container, path)
    external = [new for new in wanted if new.is_external]
    if external:
        parents = await insert_nodes(container, external, parents)
    for new in wanted:
        if not new.is_external:
            await _create_table(parents[new.parent], new)
    return refused


async def _create_table(parent: Any, new: NewNode) -> None:
    """Create a table whose rows tiled keeps; append its first rows."""
    made = await parent.create_node(
        new.structure_family,
        new.metadata,
        key=new.id,
        specs=new.specs,
        data_sources=new.data_sources,
    )
    if new.rows is not None:
        await _append_rows(CatalogTableAdapter(made.context, made.node), new.rows)


async def _append_rows(table: Any, rows: bytes) -> None:
    read = default_deserialization_registry.dispatch(
        StructureFamily.table, APACHE_ARROW_FILE_MIME_TYPE
    )
    await table.append_partition(APACHE_ARROW_FILE_MIME_TYPE, read, table, rows, 0)


@router.post("/finish_run/{path:path}")
async def finish_run(
    body: Finish, container: Annotated[Any, Depends(container_of_runs)]
) -> dict[str, Any]:
    """Add metadata to a run; tell the subscribers of it and its parts that no more updates come."""
    run = await _below(container, (body.id,))
    metadata = {**run.metadata(), **body.metadata}
    await run.replace_metadata(metadata, specs=run.specs, drop_revision=True)
    closure = orm.NodesClosure
    parts = (
        select(closure.descendant)
        .where(closure.ancestor == run.node.id)
        .order_by(closure.depth.desc())
    )
    cache = run.context.streaming_cache
    if cache is not None:
        async with run.context.session() as database:
            ids = (await database.execute(parts)).scalars().all()
        for node_id in ids:
            await cache.close(node_id)
    return {}


async def _below(container: Any, path: NodePath) -> Any:
    try:
        return await container.lookup_adapter(list(path))
    except NoEntry:
        raise HTTPException(FAILED_DEPENDENCY, f"{'/'.join(path)} is not there") from None
