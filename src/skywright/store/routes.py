"""What our own server can do beside tiled's: make the nodes of a run, and finish it, at once.

tiled looks up each node on the path of a request, which costs more than the work itself. A server
with an access policy does not take these requests: the policy decides on nodes one by one.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request, Security
from pydantic import Base64Bytes, BaseModel
from sqlalchemy import select
from sqlalchemy.orm import noload
from tiled.catalog import orm
from tiled.catalog.adapter import CatalogNodeAdapter, CatalogTableAdapter
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
from tiled.server.schemas import PostMetadataRequest
from tiled.structures.core import StructureFamily
from tiled.utils import APACHE_ARROW_FILE_MIME_TYPE

SCOPES = ["write:metadata", "write:data", "create:node", "register"]
GONE, UNSUPPORTED_MEDIA_TYPE, NOT_IMPLEMENTED = 410, 415, 501
"""Status codes. What is not there gets 410: 404 says that the server lacks these routes."""

router = APIRouter()


class NewNode(PostMetadataRequest):
    """A node as tiled creates it, and where; with the first rows of a table as an Arrow file."""

    parent: tuple[str, ...]
    """Keys from the container of runs to the parent."""
    rows: Base64Bytes | None = None


class NewNodes(BaseModel):
    """Nodes to be created, in this order."""

    nodes: list[NewNode]


class Finish(BaseModel):
    """The end of a run."""

    id: str
    metadata: dict[str, Any]
    """What its stop adds."""


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
    return await get_entry(
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


@router.post("/new_nodes/{path:path}")
async def create_nodes(
    body: NewNodes, container: Annotated[Any, Depends(container_of_runs)]
) -> dict[str, Any]:
    """Create nodes below a container; answer with those that have no adapter, and why."""
    known: dict[tuple[str, ...], Any] = {(): container}
    refused = []
    for new in body.nodes:
        if new.parent not in known:
            known[new.parent] = await _below(container, list(new.parent))
        path = (*new.parent, new.id or "")
        try:
            made = await known[new.parent].create_node(
                new.structure_family,
                new.metadata,
                key=new.id,
                specs=new.specs,
                data_sources=new.data_sources,
            )
        except HTTPException as error:
            if error.status_code != UNSUPPORTED_MEDIA_TYPE:
                raise
            refused.append({"path": path, "reason": error.detail})
            continue
        known[path] = made
        if new.rows is not None:
            await _append(CatalogTableAdapter(made.context, made.node), new.rows)
    return {"refused": refused}


async def _append(table: CatalogTableAdapter, rows: bytes) -> None:
    read = default_deserialization_registry.dispatch(
        StructureFamily.table, APACHE_ARROW_FILE_MIME_TYPE
    )
    await table.append_partition(APACHE_ARROW_FILE_MIME_TYPE, read, table, rows, 0)


@router.post("/finish_run/{path:path}")
async def finish_run(
    body: Finish, container: Annotated[Any, Depends(container_of_runs)]
) -> dict[str, Any]:
    """Add metadata to a run; tell the subscribers of it and its parts that no more updates come."""
    run = await _below(container, [body.id])
    await run.replace_metadata({**run.metadata(), **body.metadata}, drop_revision=True)
    of_the_run = (
        select(orm.Node)
        .join(orm.NodesClosure, orm.NodesClosure.descendant == orm.Node.id)
        .where(orm.NodesClosure.ancestor == run.node.id)
        .order_by(orm.NodesClosure.depth.desc())
        .options(noload("*"))
    )
    async with run.context.session() as database:
        nodes = (await database.execute(of_the_run)).scalars().all()
    for node in nodes:
        await CatalogNodeAdapter(run.context, node).close_stream()
    return {}


async def _below(container: Any, keys: list[str]) -> Any:
    try:
        return await container.lookup_adapter(keys)
    except NoEntry:
        raise HTTPException(GONE, f"{'/'.join(keys)} is not there") from None
