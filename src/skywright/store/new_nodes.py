"""Writes many nodes into tiled's catalog in one transaction.

tiled's own `create_node` makes one node, with some ten statements, each of which changes threads
several times; on a busy computer that took a second for the nodes of one run. Here a run takes
some ten statements in all. The rows are the same: a test compares them with tiled's own.

This is the one module that writes tiled's tables itself.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import groupby
from typing import Any

from pydantic import Base64Bytes
from sqlalchemy import select, tuple_
from sqlalchemy.exc import IntegrityError
from tiled.catalog import orm
from tiled.catalog.adapter import CatalogContainerAdapter, Collision
from tiled.catalog.utils import compute_structure_id
from tiled.server.schemas import DataSource, Management, PostMetadataRequest
from tiled.structures.core import StructureFamily

NodePath = tuple[str, ...]
"""Keys below the container of runs."""


class NewNode(PostMetadataRequest):
    """A new node with the path of its parent; of a table also its first rows, as an Arrow file."""

    id: str
    parent: NodePath
    rows: Base64Bytes | None = None

    @property
    def path(self) -> NodePath:
        """Return the path of the node."""
        return (*self.parent, self.id)

    @property
    def is_external(self) -> bool:
        """Return whether tiled has nothing to prepare for the data of the node."""
        return all(source.management == Management.external for source in self.data_sources)


async def insert_nodes(
    container: Any, nodes: Sequence[NewNode], parents: Mapping[NodePath, Any]
) -> dict[NodePath, Any]:
    """Write external nodes and containers, all or none; then tell the subscribers of their parents.

    Parameters
    ----------
    container
        tiled's adapter of the container of runs.
    nodes
        The nodes; `NewNode.is_external` of each.
    parents
        tiled's adapters of the parents that exist, by path; the container's is ``()``.

    Returns
    -------
    dict
        tiled's adapters of `parents` and of the new containers, by path.

    Raises
    ------
    Collision
        If one of the paths has a node already, or two of the nodes have the same path.
    """
    adapters = dict(parents)
    written: list[tuple[NewNode, orm.Node]] = []
    context = container.context
    async with context.session() as database:
        assets = await _assets_of(container, database, nodes)
        for _, level in groupby(sorted(nodes, key=_depth), key=_depth):
            rows = [(new, _row_of(new, adapters[new.parent].node.id, assets)) for new in level]
            database.add_all(row for _, row in rows)
            keys = [(row.parent, row.key) for _, row in rows]
            try:
                await database.flush()
            except IntegrityError as error:
                await database.rollback()
                if taken := await _taken(database, keys):
                    raise Collision(f"{', '.join(taken)}: there already") from error
                raise
            written += rows
            for new, row in rows:
                if new.structure_family == StructureFamily.container:
                    adapters[new.path] = CatalogContainerAdapter(context, row)
        await database.commit()
    if context.streaming_cache:
        for new, row in written:
            await _notify_subscribers(context.streaming_cache, new, row)
    return adapters


async def _taken(database: Any, keys: Sequence[tuple[int, str]]) -> list[str]:
    """Return the keys that exist below these parents, and those that the request has twice."""
    columns = orm.Node.parent, orm.Node.key
    there = (await database.execute(select(*columns).where(tuple_(*columns).in_(keys)))).all()
    twice = [key for key, count in Counter(keys).items() if count > 1]
    return [key for _, key in (*there, *twice)]


def _depth(new: NewNode) -> int:
    return len(new.parent)


def _row_of(new: NewNode, parent: int, assets: dict[str, orm.Asset]) -> orm.Node:
    return orm.Node(
        key=new.id,
        parent=parent,
        metadata_=new.metadata,
        structure_family=new.structure_family,
        specs=[spec.model_dump() for spec in new.specs],
        data_sources=[_source_row(source, assets) for source in new.data_sources],
        access_tags=[],
    )


def _source_row(source: DataSource, assets: dict[str, orm.Asset]) -> orm.DataSource:
    return orm.DataSource(
        structure_family=source.structure_family,
        mimetype=source.mimetype,
        management=source.management,
        parameters=source.parameters,
        properties=source.properties,
        structure_id=compute_structure_id(asdict(source.structure)),
        asset_associations=[
            orm.DataSourceAssetAssociation(
                asset=assets[asset.data_uri], parameter=asset.parameter, num=asset.num
            )
            for asset in source.assets
        ],
    )


async def _assets_of(
    container: Any, database: Any, nodes: Iterable[NewNode]
) -> dict[str, orm.Asset]:
    """Return the assets of all data sources by URI, new ones too; write the structures."""
    sources = [source for new in nodes for source in new.data_sources]
    structures = [asdict(source.structure) for source in sources]
    if structures:
        rows = {compute_structure_id(each): each for each in structures}
        insert = container.insert(orm.Structure).on_conflict_do_nothing(["id"])
        await database.execute(insert, [{"id": i, "structure": s} for i, s in rows.items()])
    named = {asset.data_uri: asset for source in sources for asset in source.assets}
    there = select(orm.Asset).where(orm.Asset.data_uri.in_(named))
    assets = {row.data_uri: row for row in (await database.execute(there)).scalars()}
    for uri, asset in named.items():
        if uri not in assets:
            assets[uri] = orm.Asset(data_uri=uri, is_directory=asset.is_directory, size=asset.size)
        elif asset.size is not None:
            assets[uri].size = asset.size
    return assets


async def _notify_subscribers(cache: Any, new: NewNode, row: orm.Node) -> None:
    """Tell subscribers of the parent, as tiled's `create_node` does."""
    sources = [
        source.model_copy(update={"id": stored.id}).model_dump()
        for source, stored in zip(new.data_sources, row.data_sources, strict=True)
    ]
    sequence = await cache.incr_seq(row.parent)
    message = {
        "type": "container-child-created",
        "sequence": sequence,
        "timestamp": datetime.now().isoformat(),
        "key": new.id,
        "structure_family": new.structure_family,
        "specs": [spec.model_dump() for spec in new.specs],
        "metadata": new.metadata,
        "data_sources": sources,
        "access_tags": [],
    }
    await cache.set(row.parent, sequence, message)
