"""What our own server can do beside tiled's: close all streams of updates of a run at once."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Security
from tiled.server.authentication import (
    check_scopes,
    get_current_access_tags,
    get_current_principal,
    get_current_scopes,
    get_session_state,
)
from tiled.server.dependencies import get_entry, get_root_tree
from tiled.structures.core import StructureFamily

SCOPES = ["write:data"]

router = APIRouter()


@router.delete("/close_run/{path:path}")
async def close_run(
    request: Request,
    path: str,
    principal: Annotated[Any, Depends(get_current_principal)],
    root_tree: Annotated[Any, Depends(get_root_tree)],
    session_state: Annotated[dict[str, Any], Depends(get_session_state)],
    access_tags: Annotated[Any, Depends(get_current_access_tags)],
    scopes: Annotated[Any, Depends(get_current_scopes)],
    _: Annotated[Any, Security(check_scopes, scopes=SCOPES)],
) -> None:
    """Tell subscribers of a node and of all below it that no more updates come."""
    run = await get_entry(
        path,
        SCOPES,
        principal,
        access_tags,
        scopes,
        root_tree,
        session_state,
        request.state.metrics,
        None,
        getattr(request.app.state, "access_policy", None),
    )
    await _close(run)


async def _close(node: Any) -> None:
    if node.structure_family == StructureFamily.container:
        for _, child in await node.items_range(0, None):
            await _close(child)
    await node.close_stream()
