"""Recording and removing entities, in bulk, with a message for the broker for each change."""

import json
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from skywright.instruments.epu.database import schema
from skywright.instruments.epu.database.events import Change, change_event
from skywright.instruments.epu.database.schema_exchange import outbox

Row = Mapping[str, Any]
T = TypeVar("T")

CHUNK = 500
"""Rows or keys in one statement; SQLite takes 32766 values, and a micrograph has about 50."""

STAMP = "manifest_stamp"
CHANGES = "changes"
"""Setting that holds the number of the last change of a micrograph."""
_OWN = {"uuid", "number", "updated_at", "change"}
"""Columns that do not make a row different."""


@dataclass
class Recorded:
    """Uuids of the entities that a call of `record` created and changed."""

    created: set[str] = field(default_factory=set)
    updated: set[str] = field(default_factory=set)

    @property
    def changed(self) -> set[str]:
        """Uuids of what was created or updated."""
        return self.created | self.updated


def record(
    connection: Connection, kind: str, rows: Iterable[Row], known: Container[str] | None = None
) -> Recorded:
    """Insert entities or update the columns that are given.

    A row with ``manifest_stamp`` does nothing to an entity that has a newer one: the newest
    manifest counts, whatever the order of arrival. Where the connection's database announces, a
    message for each created or changed entity goes into the outbox in the same transaction.

    Parameters
    ----------
    connection
        From `Database.write`.
    kind
        ``acquisition``, ``grid``, ``atlas``, ``atlas_tile``, ``gridsquare``, ``foilhole`` or
        ``micrograph``.
    rows
        Columns by name. Each has ``uuid`` and what its table requires: ``acquisition_uuid`` for a
        grid, ``grid_uuid`` for an atlas or square, ``atlas_uuid`` for a tile, ``grid_uuid`` and
        ``gridsquare_uuid`` for a hole, and ``foilhole_uuid`` as well for a micrograph. The square
        and the hole need not be stored yet. Rows may differ in their columns.
    known
        Uuids that are stored, where the caller has looked in this transaction; None looks here.

    Returns
    -------
    Recorded
        What was created and updated.
    """
    table = schema.ENTITIES[kind]
    result = Recorded()
    messages: list[dict[str, Any]] = []
    announced = announces(connection)
    for chunk in chunks(_latest(rows)):
        if table is schema.micrograph:
            now = datetime.now(UTC)
            numbers = take_changes(connection, len(chunk))
            chunk = [
                {"updated_at": now, **row, "change": number}
                for row, number in zip(chunk, numbers, strict=True)
            ]
        if known is None:
            existing: Container[str] = present(connection, kind, [row["uuid"] for row in chunk])
        else:
            existing = known
        changes = _store(connection, table, chunk, existing, result.created)
        for row, change in zip(chunk, changes, strict=True):
            uuid = row["uuid"]
            if change is None:
                continue
            (result.created if change == "created" else result.updated).add(uuid)
            if announced:
                messages.append(change_event(kind, change, row))
    result.updated -= result.created
    announce(connection, messages)
    return result


def _store(
    connection: Connection,
    table: Table,
    rows: Sequence[dict[str, Any]],
    known: Container[str],
    made: Container[str],
) -> list[Change | None]:
    """Insert the new ones of rows, in their order, change the others; give what became of each.

    Writers take turns, so what was not there a moment ago is not there now. A plain INSERT is
    several times quicker than one with ON CONFLICT, which SQLAlchemy compiles each time.
    """
    changes: list[Change | None] = [None] * len(rows)
    new: dict[str, int] = {}
    old: dict[frozenset[str], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        uuid = row["uuid"]
        if uuid in known or uuid in made or uuid in new:
            old[frozenset(row)].append(index)
        else:
            new[uuid] = index
            changes[index] = "created"
    if new:
        connection.execute(insert(table), _complete(table, [rows[index] for index in new.values()]))
    for places in old.values():
        group = [rows[index] for index in places]
        touched = set(connection.execute(_upsert(connection, table, group[0]), group).scalars())
        for index in places:
            if rows[index]["uuid"] in touched:
                changes[index] = "updated"
    return changes


def _complete(table: Table, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give rows that all have the columns that any of them has: one INSERT keeps their order."""
    names = set().union(*rows)
    if all(row.keys() == names for row in rows):
        return rows
    absent = {name: _default(table.c[name]) for name in names}
    return [{**absent, **row} for row in rows]


def _default(column: Column[Any]) -> Any:
    """Give what the database stores where a column is absent."""
    if column.server_default is None:
        return None
    text = str(column.server_default.arg)  # type: ignore[attr-defined]
    return text == "1" if isinstance(column.type, Boolean) else text


def set_values(connection: Connection, table: Table, *where: Any, **values: Any) -> int:
    """Set columns of the rows that fulfil all conditions; return the number of rows."""
    return connection.execute(update(table).where(*where).values(values)).rowcount


def take_changes(connection: Connection, count: int) -> range:
    """Take numbers for changes of micrographs, from a connection of `Database.write`.

    Writers take turns, so a reader that asks for numbers above the last one it has seen misses no
    change, whatever the clocks of the writers say.
    """
    value, mine = schema.setting.c.value, schema.setting.c.name == CHANGES
    raised = cast(cast(value, BigInteger) + count, Text)
    raise_it = update(schema.setting).where(mine).values(value=raised).returning(value)
    last = connection.execute(raise_it).scalar()
    if last is None:
        last = str(count)
        connection.execute(insert(schema.setting).values(name=CHANGES, value=last))
    return range(int(last) - count + 1, int(last) + 1)


def change_micrographs(connection: Connection, where: Any, **values: Any) -> None:
    """Set columns of the micrographs that fulfil a condition; no message tells of these changes."""
    table = schema.micrograph
    uuids = connection.execute(select(table.c.uuid).where(where)).scalars().all()
    if uuids:
        numbers = take_changes(connection, len(uuids))
        rows = [{"key": uuid, "taken": n} for uuid, n in zip(uuids, numbers, strict=True)]
        given = {**values, "change": bindparam("taken"), "updated_at": datetime.now(UTC)}
        mine = table.c.uuid == bindparam("key")
        connection.execute(update(table).where(mine).values(given), rows)


def present(connection: Connection, kind: str, uuids: Sequence[str]) -> set[str]:
    """Give those of `uuids` that are stored."""
    column = schema.ENTITIES[kind].c.uuid
    found: set[str] = set()
    for part in chunks(uuids):
        found.update(connection.execute(select(column).where(column.in_(part))).scalars())
    return found


def remove(connection: Connection, kind: str, uuid: str) -> bool:
    """Delete an entity and everything below it.

    Returns
    -------
    bool
        False where there is no such entity.
    """
    table = schema.ENTITIES[kind]
    row = connection.execute(select(table).where(table.c.uuid == uuid)).mappings().first()
    if row is None:
        return False
    if kind in ("acquisition", "grid"):
        _keep_shared_atlases(connection, kind, uuid)
    if kind == "gridsquare":
        for child in (schema.micrograph, schema.foilhole):
            connection.execute(delete(child).where(child.c.gridsquare_uuid == uuid))
    elif kind == "foilhole":
        child = schema.micrograph
        connection.execute(delete(child).where(child.c.foilhole_uuid == uuid))
    elif kind == "atlas":
        grid = schema.grid
        set_values(connection, grid, grid.c.atlas_uuid == uuid, atlas_uuid=None)
    connection.execute(delete(table).where(table.c.uuid == uuid))
    announce(connection, [change_event(kind, "deleted", row)])
    return True


def announces(connection: Connection) -> bool:
    """Return whether changes on this connection of `Database.write` are announced."""
    return bool(connection.get_execution_options().get("announce", False))


def announce(connection: Connection, bodies: Sequence[dict[str, Any]]) -> None:
    """Put messages into the outbox, in this order, where the connection's database announces.

    Each has an ``event_type``.
    """
    if not announces(connection):
        return
    now = datetime.now(UTC)
    rows = [
        {"event_type": body["event_type"], "body": json.dumps(body), "created_at": now}
        for body in bodies
    ]
    if rows:
        connection.execute(insert(outbox), rows)


def announce_stored(connection: Connection) -> None:
    """Put a message into the outbox for each entity that is stored, parents first."""
    connection.execution_options(announce=True)
    for kind, table in schema.ENTITIES.items():
        last = 0
        query = select(table).order_by(table.c.number).limit(10 * CHUNK)
        while rows := connection.execute(query.where(table.c.number > last)).mappings().all():
            announce(connection, [change_event(kind, "created", row) for row in rows])
            last = rows[-1]["number"]


def record_files(connection: Connection, rows: Iterable[Row]) -> None:
    """Insert or update what is known of files of a watched tree (table ``source_file``).

    Parameters
    ----------
    connection
        From `Database.write`; use the transaction that records what the files hold, so that a
        file counts as read exactly when its content is stored.
    rows
        ``root``, ``path``, ``kind``, ``size``, ``mtime_ns`` and other columns of the table.
    """
    table = schema.source_file
    groups: dict[frozenset[str], list[dict[str, Any]]] = defaultdict(list)
    for row in _latest(rows, key=("root", "path")):
        groups[frozenset(row)].append(row)
    for group in groups.values():
        statement = insert_into(connection, table)
        given = {
            name: statement.excluded[name] for name in group[0] if name not in ("root", "path")
        }
        statement = statement.on_conflict_do_update(index_elements=["root", "path"], set_=given)
        for chunk in chunks(group):
            connection.execute(statement, chunk)


def insert_into(connection: Connection, table: Table) -> Any:
    """Give the insert statement of the dialect: the generic one knows no ON CONFLICT."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


def _upsert(connection: Connection, table: Table, row: Row) -> Any:
    statement = insert_into(connection, table)
    given: dict[str, Column[Any]] = {
        name: statement.excluded[name] for name in row if name not in ("uuid", "number")
    }
    compared = [name for name in given if name not in _OWN]
    if not compared:
        return statement.on_conflict_do_nothing(index_elements=["uuid"]).returning(table.c.uuid)
    condition = or_(*[table.c[name].is_distinct_from(given[name]) for name in compared])
    if STAMP in given:
        stamp = table.c[STAMP]
        condition &= or_(stamp.is_(None), stamp <= given[STAMP])
    return statement.on_conflict_do_update(
        index_elements=["uuid"], set_=given, where=condition
    ).returning(table.c.uuid)


def _latest(rows: Iterable[Row], key: tuple[str, ...] = ("uuid",)) -> list[dict[str, Any]]:
    """Give rows with each key and set of columns once: one statement cannot hit a row twice."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        place = (frozenset(row), *(row[name] for name in key))
        earlier = found.get(place)
        if earlier is None or (row.get(STAMP) or "") >= (earlier.get(STAMP) or ""):
            found[place] = dict(row)
    return list(found.values())


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield rows or keys by `CHUNK`, for a statement each."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def _keep_shared_atlases(connection: Connection, kind: str, uuid: str) -> None:
    """Give an atlas that other grids use as well to one of those before its grid goes."""
    grid, atlas = schema.grid, schema.atlas
    goes = grid.c.uuid == uuid if kind == "grid" else grid.c.acquisition_uuid == uuid
    going = set(connection.execute(select(grid.c.uuid).where(goes)).scalars())
    for owned in connection.execute(select(atlas.c.uuid).where(atlas.c.grid_uuid.in_(going))):
        users = select(grid.c.uuid).where(
            grid.c.atlas_uuid == owned.uuid, grid.c.uuid.not_in(going)
        )
        heir = connection.execute(users.limit(1)).scalar()
        if heir is not None:
            set_values(connection, atlas, atlas.c.uuid == owned.uuid, grid_uuid=heir)
