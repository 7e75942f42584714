"""A session with one micrograph, and a message about it."""

from skywright.instruments.epu.database import Database, record


def session(database: Database) -> None:
    links = {"grid_uuid": "g", "gridsquare_uuid": "s"}
    with database.write() as connection:
        record(connection, "acquisition", [{"uuid": "a", "name": "n"}])
        record(connection, "grid", [{"uuid": "g", "acquisition_uuid": "a", "name": "n"}])
        record(connection, "gridsquare", [{"uuid": "s", "grid_uuid": "g"}])
        record(connection, "foilhole", [{"uuid": "h", **links}])
        record(connection, "micrograph", [{"uuid": "m", "foilhole_uuid": "h", **links}])


MOTION = {
    "event_type": "motion_correction.completed",
    "micrograph_uuid": "m",
    "total_motion": 12.5,
    "average_motion": 0.5,
}
