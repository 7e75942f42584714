"""Follows the results in the entity database: quality of the grids, suggestions, an overview."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, RowMapping, bindparam, case, func, select, update

from skywright.analysis import Batch
from skywright.instruments.epu.broker.quality import find_model, store_predictions
from skywright.instruments.epu.database import Database, read, schema
from skywright.instruments.epu.database.schema_quality import (
    current_prediction,
    overall_prediction,
    prediction_model,
)
from skywright.instruments.epu.decisions.analysis import MicrographQuality
from skywright.instruments.epu.decisions.policy import Left, Policy, StayOrLeave, Suggestion
from skywright.instruments.epu.decisions.quality import GridQuality

MODEL = "skywright_quality"
"""Name of the prediction model in the entity database."""
CLOCK = timedelta(minutes=10)
"""A micrograph may be dated later than now, or than the last one read, by this much."""
CHANGE = 0.005
"""A prediction is stored again when it has changed by this much."""
ROWS_MAX = 5000
NEWEST = 8
INPUTS = ("uuid", "gridsquare_id", "foilhole_id", "ctf_max_resolution_estimate", "total_motion")

Row = RowMapping


@dataclass(slots=True)
class Troubles:
    """Counts of what a person may have to look after.

    Attributes
    ----------
    orphans
        Micrographs whose hole is not recorded.
    late
        Those of them that have waited for long.
    duplicates
        Holes with more than one manifest.
    """

    orphans: int = 0
    late: int = 0
    duplicates: int = 0


@dataclass(slots=True)
class _Followed:
    analysis: MicrographQuality
    rows: int = 0
    quality: GridQuality | None = None
    stored: dict[str, float] = field(default_factory=dict)


def _differs(stored: Mapping[str, float], square: str, share: float) -> bool:
    return abs(stored.get(square, -1.0) - share) > CHANGE


class Decider:
    """Ranks squares and holes as results come in, and suggests what to take next.

    Parameters
    ----------
    database
        The entity database.
    root
        The watched directory. Suggestions and counts are of its grids, see `read.is_in_directory`.
    policy
        Chooses.
    quality
        Parameters of the analysis `epu_quality`.
    late_s
        Seconds after which an orphan counts as late.
    suggested
        Called with the grid's uuid and each new suggestion.
    """

    def __init__(
        self,
        database: Database,
        root: Path,
        policy: Policy | None = None,
        quality: Mapping[str, Any] | None = None,
        late_s: float = 300.0,
        suggested: Callable[[str, Suggestion], None] = lambda grid, suggestion: None,
    ) -> None:
        self.database = database
        self._root = root
        self.policy: Policy = policy or StayOrLeave()
        self.troubles = Troubles()
        self.suggestion: dict[str, Any] = {}
        """The newest suggestion, with the grid's uuid."""
        self.overview: dict[str, Any] = {}
        """The grid of the newest micrograph, for people; see `overview`."""
        self._parameters = dict(quality or {})
        self._late_s = late_s
        self._suggested = suggested
        self._grids: dict[str, _Followed] = {}
        self._seen = 0
        MicrographQuality(**self._parameters)  # refuses wrong parameters at once

    def step(self) -> None:
        """Read new results; renew the counts, the overview and, if it changes, the suggestion."""
        with self.database.read() as connection:
            self.troubles = troubles(connection, self._root, self._late_s)
            while rows := self._new(connection):
                self._take(rows)
            grid = _current_grid(connection, self._root)
            if grid is None:
                return
            followed = self._of(grid)
            followed.quality = quality = followed.quality or followed.analysis.quality()
            left = _left(connection, grid)
            self.overview = overview(connection, grid, quality)
        suggestion = self.policy.suggest(quality, left)
        found = {"grid": grid, "policy": self.policy.name, **asdict(suggestion)}
        is_new = found != self.suggestion
        recorded = {square for square, *_ in self.overview["squares"]}  # others cannot be stored
        if not is_new and not any(
            square in recorded and _differs(followed.stored, square, share)
            for square, share in quality.shares.items()
        ):
            return
        with self.database.write() as connection:
            stored = _store(connection, grid, quality, followed.stored, suggestion, is_new)
        followed.stored, self.suggestion = stored, found
        if is_new:
            self._suggested(grid, suggestion)

    def _of(self, grid: str) -> _Followed:
        if grid not in self._grids:
            self._grids[grid] = _Followed(MicrographQuality(**self._parameters))
        return self._grids[grid]

    def _new(self, connection: Connection) -> list[Row]:
        """Return rows that changed since the last call."""
        table = schema.micrograph
        query = (
            select(
                table.c.grid_uuid,
                table.c.updated_at,
                table.c.change,
                *(table.c[name] for name in INPUTS),
            )
            .where(table.c.change > self._seen, table.c.ctf_max_resolution_estimate.is_not(None))
            .order_by(table.c.change)
            .limit(ROWS_MAX)
        )
        rows = list(connection.execute(query).mappings())
        if rows:
            self._seen = rows[-1]["change"]
        return rows

    def _take(self, rows: list[Row]) -> None:
        by_grid: dict[str, list[Row]] = {}
        for row in rows:
            by_grid.setdefault(row["grid_uuid"], []).append(row)
        for grid, found in by_grid.items():
            followed = self._of(grid)
            identities = np.arange(followed.rows, followed.rows + len(found))
            followed.analysis.update(_batch(found, identities))
            followed.rows += len(found)
            followed.analysis.advance(followed.rows)
            followed.quality = None


def _batch(rows: list[Row], identities: Any) -> Batch:
    texts = {
        f"result_{name}": np.array([(row[name] or "").encode() for row in rows])
        for name in INPUTS[:3]
    }
    numbers = {
        f"result_{name}": np.array([np.nan if row[name] is None else row[name] for row in rows])
        for name in INPUTS[3:]
    }
    times = np.array([row["updated_at"].timestamp() for row in rows])
    return Batch(identities, times, texts | numbers)


def troubles(connection: Connection, root: Path, late_s: float) -> Troubles:
    """Count orphans, late ones, and holes with several manifests, of a watched directory.

    An orphan waits since its file was recorded: results of processing change its `updated_at`.
    """
    table, file = schema.micrograph, schema.source_file
    long_ago = datetime.now(UTC) - timedelta(seconds=late_s)
    own = (file.c.kind == "micrograph", file.c.entity_uuid == table.c.uuid)
    recorded = select(func.min(file.c.recorded_at)).where(*own).scalar_subquery()
    since = func.coalesce(recorded, table.c.updated_at)
    late = func.count(case((since < long_ago, 1)))
    grids = select(schema.grid.c.uuid).where(read.is_in_directory(root))
    orphan = (read.is_orphan(), table.c.grid_uuid.in_(grids))
    count = select(func.count(), late).select_from(table).where(*orphan)
    several = (
        select(file.c.entity_uuid)
        .where(file.c.root == str(root))  # a moved tree has its paths twice
        .where(file.c.kind == "foilhole", file.c.entity_uuid.is_not(None))
        .group_by(file.c.entity_uuid)
        .having(func.count() > 1)
    )
    orphans, waited = connection.execute(count).one()
    return Troubles(
        orphans,
        waited,
        int(connection.execute(select(func.count()).select_from(several.subquery())).scalar_one()),
    )


def _latest_time(connection: Connection) -> datetime:
    """Return the time after which no micrograph can have been taken.

    The clock of the microscope's machine may be ahead. That of the micrograph that was read last
    counts, so that a single wrong time is not the newest for longer than until the next one.
    """
    table = schema.micrograph.c
    last = select(table.acquisition_datetime).order_by(table.number.desc()).limit(1)
    now = datetime.now(UTC)
    latest = max(now, connection.execute(last).scalar() or now)
    return min(latest, datetime.max.replace(tzinfo=UTC) - CLOCK) + CLOCK


def _newest_first(connection: Connection, grid: str, *columns: Any) -> Any:
    """Return a query of a grid's micrographs in the order of acquisition.

    The order of reading is any order; it counts for those without a time, or with a wrong one.
    """
    table = schema.micrograph.c
    latest, of_grid = _latest_time(connection), table.grid_uuid == grid
    taken: Any = table.acquisition_datetime
    last = connection.execute(select(func.max(taken)).where(of_grid)).scalar()
    if last is not None and last > latest:  # only then: no index has this order
        taken = case((taken <= latest, taken))
    query = select(*columns).where(of_grid)
    return query.order_by(taken.desc().nulls_last(), table.number.desc())


def _current_grid(connection: Connection, root: Path) -> str | None:
    grid, table = schema.grid.c, schema.micrograph.c
    is_possible = table.acquisition_datetime <= _latest_time(connection)
    last = [  # found in an index, for each grid
        select(func.max(column)).where(table.grid_uuid == grid.uuid, *where).scalar_subquery()
        for column, where in ((table.acquisition_datetime, [is_possible]), (table.number, []))
    ]
    own = select(grid.uuid).where(read.is_in_directory(root))
    grids = own.order_by(*[each.desc().nulls_last() for each in last])
    return connection.execute(grids.limit(1)).scalar()


def _left(connection: Connection, grid: str) -> Left:
    """Return the planned holes without micrograph, and what models predict of them."""
    hole, table, overall = schema.foilhole, schema.micrograph, overall_prediction
    taken = select(table.c.number).where(table.c.foilhole_uuid == hole.c.uuid)
    query = (
        select(hole.c.gridsquare_id, hole.c.foilhole_id, overall.c.value)
        .outerjoin_from(hole, overall, overall.c.foilhole_uuid == hole.c.uuid)
        .where(hole.c.grid_uuid == grid, hole.c.planned, ~hole.c.is_near_grid_bar)
        .where(~taken.exists())
        .order_by(func.length(hole.c.gridsquare_id), hole.c.gridsquare_id, hole.c.number)
    )
    left: dict[str, list[str]] = {}
    predicted: dict[tuple[str, str], float] = {}
    for square, name, value in connection.execute(query):
        left.setdefault(square or "", []).append(name)
        if value is not None:
            predicted[square or "", name] = value
    newest = _newest_first(connection, grid, table.c.gridsquare_id)
    current = connection.execute(newest.limit(1)).scalar() or ""
    return Left({square: tuple(holes) for square, holes in left.items()}, current, predicted)


def overview(connection: Connection, grid: str, quality: GridQuality) -> dict[str, Any]:
    """Return what a page shows of a grid.

    Micrographs are counted by the uuids of squares and holes, which are found in indexes.

    Returns
    -------
    dict
        ``name``, ``current`` (square), ``states`` (squares by state), ``squares`` (lists of id,
        x and y on the atlas in px, micrographs, share or None), ``holes`` of the present square
        (lists of id, x and y in px, micrographs, share or None), ``newest`` (micrographs: id,
        square, hole, CTF resolution or None in angstrom), ``micrographs``, ``results``, ``good``.
    """
    square, hole, table = schema.gridsquare, schema.foilhole, schema.micrograph
    taken = table.c.grid_uuid == grid
    shares = quality.shares

    def count(where: Any) -> Any:
        return select(func.count()).select_from(table).where(where).scalar_subquery()

    of_square = count(table.c.gridsquare_uuid == square.c.uuid)
    of_hole = count(table.c.foilhole_uuid == hole.c.uuid)
    squares = connection.execute(
        select(square.c.gridsquare_id, square.c.center_x, square.c.center_y, square.c.state)
        .add_columns(of_square)
        .where(square.c.grid_uuid == grid)
    ).all()
    states: dict[str, int] = {}
    for each in squares:
        states[each.state or "unknown"] = states.get(each.state or "unknown", 0) + 1
    names = ("micrograph_id", "gridsquare_id", "foilhole_id", "ctf_max_resolution_estimate")
    shown = (table.c[each] for each in (*names, "gridsquare_uuid"))
    newest = connection.execute(_newest_first(connection, grid, *shown).limit(NEWEST)).all()
    current, present = (newest[0].gridsquare_id, newest[0].gridsquare_uuid) if newest else ("", "")
    holes = connection.execute(
        select(hole.c.foilhole_id, hole.c.x_location, hole.c.y_location, of_hole).where(
            hole.c.gridsquare_uuid == present
        )
    ).all()
    total, name = connection.execute(
        select(count(taken), schema.grid.c.name).where(schema.grid.c.uuid == grid)
    ).one()
    return {
        "name": name,
        "current": current or "",
        "states": dict(sorted(states.items())),
        "squares": [
            [row[0], *_rounded(*row[1:3]), row[4], *_rounded(shares.get(row[0]))] for row in squares
        ],
        "holes": [
            [row[0], *_rounded(*row[1:3]), row[3], *_rounded(quality.holes.get((current, row[0])))]
            for row in holes
        ],
        "newest": [[*row[:3], *_rounded(row[3])] for row in newest],
        "micrographs": total,
        "results": quality.micrographs,
        "good": quality.good,
    }


def _pairs(connection: Connection, query: Any) -> dict[Any, Any]:
    return dict(connection.execute(query).tuples().all())


def _rounded(*values: float | None) -> list[float | None]:
    """Return numbers short enough for a PV."""
    return [None if value is None else float(f"{value:.4g}") for value in values]


def _store(
    connection: Connection,
    grid: str,
    quality: GridQuality,
    stored: dict[str, float],
    suggestion: Suggestion,
    is_new: bool,
) -> dict[str, float]:
    """Store the shares as predictions of squares, and the order that is suggested, if it is new.

    Returns
    -------
    dict
        The shares that are stored, by square.
    """
    if find_model(connection, MODEL) is None:
        about = "share of good micrographs, from the results of processing"
        connection.execute(prediction_model.insert().values(name=MODEL, description=about))
    table = schema.gridsquare
    query = select(table.c.gridsquare_id, table.c.uuid).where(table.c.grid_uuid == grid)
    uuids = _pairs(connection, query)
    stored = dict(stored)
    if not stored:
        place = current_prediction
        known = select(place.c.gridsquare_uuid, place.c.value).where(
            place.c.grid_uuid == grid,
            place.c.prediction_model_name == MODEL,
            place.c.gridsquare_uuid.is_not(None),
        )
        names = {uuid: name for name, uuid in uuids.items()}
        stored = {names[uuid]: value for uuid, value in connection.execute(known) if uuid in names}
    before = len(stored)
    for square, share in quality.shares.items():
        if square in uuids and _differs(stored, square, share):
            store_predictions(connection, "gridsquare", {uuids[square]: grid}, MODEL, share)
            stored[square] = share
    if not is_new and len(stored) == before:  # a newly stored square needs its place in the order
        return stored
    hole, overall = schema.foilhole, overall_prediction
    of_square = select(hole.c.foilhole_id, hole.c.uuid).where(
        hole.c.grid_uuid == grid, hole.c.gridsquare_id == "".join(suggestion.squares[:1])
    )
    holes = _pairs(connection, of_square)
    shown = {square: uuid for square, uuid in uuids.items() if square in stored}
    places: dict[str, int] = {}
    for order, found in ((suggestion.squares, shown), (suggestion.holes, holes)):
        places |= {found[name]: index for index, name in enumerate(order) if name in found}
    subject = func.coalesce(overall.c.gridsquare_uuid, overall.c.foilhole_uuid)
    rows = select(overall.c.id, overall.c.suggested_acquisition_index, subject)
    changed = [
        {"number": number, "place": places.get(uuid)}
        for number, place, uuid in connection.execute(rows.where(overall.c.grid_uuid == grid))
        if place != places.get(uuid)
    ]
    if changed:
        change = update(overall).where(overall.c.id == bindparam("number"))
        connection.execute(change.values(suggested_acquisition_index=bindparam("place")), changed)
    return stored
