"""Messages of the broker, applied to the database."""

import json
import math
from typing import Any, get_args

import pytest
from epu_session import MOTION, session
from sqlalchemy import event, func, select

from skywright.errors import DataError
from skywright.instruments.epu.broker.apply import apply_event
from skywright.instruments.epu.broker.consumer import apply_batch
from skywright.instruments.epu.broker.events import AnyEvent, read_event
from skywright.instruments.epu.broker.examples import example_events
from skywright.instruments.epu.database import Database, read, record
from skywright.instruments.epu.database.schema_exchange import applied_message
from skywright.instruments.epu.database.schema_quality import metric_statistics, model_weight

INSTRUCTION = {
    "event_type": "agent.instruction.created",
    "instruction_id": "i",
    "session_id": "x",
    "agent_id": "one",
    "instruction_type": "test",
    "payload": {},
}


def encoded(*bodies: dict[str, Any]) -> list[tuple[str | None, bytes]]:
    return [(str(number), json.dumps(body).encode()) for number, body in enumerate(bodies)]


def test_messages_are_applied_once(database: Database) -> None:
    session(database)
    judged = {"event_type": "ctf.registered", "micrograph_uuid": "m", "quality": True}
    batch = encoded(MOTION, judged | {"metric_name": "ctfmaxresolution"})
    for state in ("applied", "known"):
        with database.write() as connection:
            outcomes = apply_batch(connection, batch * 2)
        assert [outcome.state for outcome in outcomes] == [state] * 2 + ["known"] * 2
    with database.read() as connection:
        row = read.get(connection, "micrograph", "m")
        assert connection.execute(select(metric_statistics.c.count)).scalars().all() == [1]
        assert connection.execute(select(func.count()).select_from(applied_message)).scalar() == 2
    assert row is not None
    assert (row["total_motion"], row["status"]) == (12.5, "motion correction completed")


def test_a_bad_message_stops_no_other(database: Database) -> None:
    session(database)
    bad = [
        MOTION | {"average_motion": -1},
        MOTION | {"micrograph_uuid": "later"},
        {"event_type": "unknown.name"},
        {"no": "name"},
        {"event_type": "ctf.registered", "micrograph_uuid": "m", "quality": True}
        | {"metric_name": "beauty"},
        INSTRUCTION | {"payload": {"x": 2**64}},
        INSTRUCTION | {"instruction_metadata": {"x": [math.nan]}},
    ]
    batch = [
        *encoded(*bad),
        ("x", b"no json"),
        ("y", b"\xff\xfe"),
        ("z", json.dumps(MOTION).encode()),
    ]
    with database.write() as connection:
        outcomes = apply_batch(connection, batch)
    assert [outcome.state for outcome in outcomes] == [
        "refused",
        "early",
        *["refused"] * 7,
        "applied",
    ]
    assert "average_motion" in outcomes[0].reason
    assert "later" in outcomes[1].reason
    assert "metric_name" in outcomes[4].reason
    assert '"unknown.name"' in outcomes[2].reason
    assert len(outcomes[2].reason) < 200


def test_a_message_id_that_no_database_holds_stops_no_other(database: Database) -> None:
    session(database)
    body = json.dumps(MOTION).encode()
    with database.write() as connection:
        outcomes = apply_batch(connection, [("a\0b", body), ("z", body)])
    assert [outcome.state for outcome in outcomes] == ["refused", "applied"]
    assert "message_id" in outcomes[0].reason


def test_results_of_all_steps_change_the_micrograph(database: Database) -> None:
    session(database)
    steps = [
        {"event_type": "particle_selection.completed", "number_of_particles_selected": 150}
        | {"number_of_particles_rejected": 140, "selection_distribution": {"a": 1}},
        {"event_type": "particle_picking.completed", "number_of_particles_picked": 300},
        {"event_type": "ctf.completed", "ctf_max_resolution_estimate": 3.5},
        {"event_type": "motion_correction.completed", "total_motion": 9.0, "average_motion": 0.5}
        | {"motion_corrected_image_path": "/dls/m.mrc"},
        {"event_type": "motion_correction.completed", "total_motion": 7.0, "average_motion": 0.25},
    ]
    with database.write() as connection:
        for step in steps:
            apply_event(connection, {"micrograph_uuid": "m", **step})
        row = read.get(connection, "micrograph", "m")
    assert row is not None
    assert row["status"] == "particle selection completed"
    assert row["number_of_particles_picked"] == 300
    assert (row["total_motion"], row["motion_corrected_image_path"]) == (7.0, "/dls/m.mrc")
    assert json.loads(row["selection_distribution"]) == {"a": 1}


def test_a_message_that_comes_late_takes_no_state_back(database: Database) -> None:
    session(database)
    states = []
    with database.write() as connection:
        for name in ("foilholes.detected", "foilholes.decision_completed", "foilholes.detected"):
            apply_event(connection, {"event_type": name, "gridsquare_uuid": "s"})
            row = read.get(connection, "gridsquare", "s")
            states.append(row and row["status"])
    done = "foil holes decision completed"
    assert states == ["all foil holes registered", done, done]


def test_judgements_weigh_the_models_that_predicted_them(database: Database) -> None:
    session(database)
    from skywright.instruments.epu.database.schema_quality import prediction_model

    with database.write() as connection:
        for name, value in (("right", 0.9), ("wrong", 0.1)):
            connection.execute(prediction_model.insert().values(name=name))
            event = {"event_type": "foilhole.model_prediction", "foilhole_uuid": "h"}
            prediction = {"prediction_model_name": name, "prediction_value": value}
            apply_event(connection, event | prediction)
        judged = {"event_type": "ctf.registered", "micrograph_uuid": "m", "quality": True}
        apply_event(connection, judged)
        rows = connection.execute(
            select(model_weight.c.prediction_model_name, model_weight.c.weight)
        ).tuples()
        assert dict(rows.all()) == pytest.approx({"right": 0.9, "wrong": 0.1})


def test_the_mean_of_the_largest_predictions_is_a_number(database: Database) -> None:
    session(database)
    from skywright.instruments.epu.database.schema_quality import (
        overall_prediction,
        prediction_model,
    )

    with database.write() as connection:
        for name, value in (("one", 1.7e308), ("other", 1.5e308), ("third", -1.7e308)):
            connection.execute(prediction_model.insert().values(name=name))
            event = {"event_type": "foilhole.model_prediction", "foilhole_uuid": "h"}
            prediction = {"prediction_model_name": name, "prediction_value": value}
            apply_event(connection, event | prediction)
        overall = connection.execute(select(overall_prediction.c.value)).scalar_one()
    assert overall == pytest.approx(0.5e308)


def test_a_model_that_says_nothing_gains_no_weight(database: Database) -> None:
    session(database)
    from skywright.instruments.epu.broker.quality import weights
    from skywright.instruments.epu.database.schema_quality import prediction_model

    with database.write() as connection:
        record(connection, "gridsquare", [{"uuid": "s2", "grid_uuid": "g"}])
        record(
            connection,
            "micrograph",
            [{"uuid": "m2", "foilhole_uuid": "h2", "grid_uuid": "g", "gridsquare_uuid": "s2"}],
        )
        connection.execute(prediction_model.insert(), [{"name": name} for name in ("all", "one")])
        of_square = {"event_type": "gridsquare.model_prediction", "prediction_value": 0.8}
        for square, model in (("s", "all"), ("s2", "all"), ("s2", "one")):
            subject = {"gridsquare_uuid": square, "prediction_model_name": model}
            apply_event(connection, of_square | subject)
        of_hole = {"event_type": "foilhole.model_prediction", "foilhole_uuid": "h"}
        hole = {"prediction_model_name": "all", "prediction_value": 0.6}
        apply_event(connection, of_hole | hole)
        judged = {"event_type": "ctf.registered", "quality": True}
        apply_event(connection, judged | {"micrograph_uuid": "m2"})
        before = weights(connection, "g")
        for _ in range(3):
            apply_event(connection, judged | {"micrograph_uuid": "m"})
        assert weights(connection, "g") == pytest.approx(before)
        assert before == pytest.approx({("all", None): 0.5, ("one", None): 0.5})
        apply_event(connection, of_hole | hole | {"prediction_model_name": "one"})
        apply_event(connection, judged | {"micrograph_uuid": "m"})
        assert weights(connection, "g") == pytest.approx(before)  # both 0.6 of the hole
        connection.execute(prediction_model.insert().values(name="new"))
        record(connection, "gridsquare", [{"uuid": "s3", "grid_uuid": "g"}])
        place = {"grid_uuid": "g", "gridsquare_uuid": "s3"}
        record(connection, "foilhole", [{"uuid": "h3", **place}])
        record(connection, "micrograph", [{"uuid": "m3", "foilhole_uuid": "h3", **place}])
        new = {"foilhole_uuid": "h3", "prediction_model_name": "new", "prediction_value": 0.1}
        apply_event(connection, of_hole | new)
        apply_event(connection, judged | {"micrograph_uuid": "m3"})
        third = [("all", None), ("one", None), ("new", None)]
        assert weights(connection, "g") == pytest.approx(dict.fromkeys(third, 1 / 3))


def test_predictions_of_many_holes_take_no_more_statements_than_those_of_few(
    database: Database,
) -> None:
    session(database)
    from skywright.instruments.epu.database.schema_quality import (
        overall_prediction,
        prediction,
        prediction_model,
    )

    statements: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    counts = []
    with database.write() as connection:
        connection.execute(prediction_model.insert(), [{"name": "one"}, {"name": "other"}])
        event.listen(connection, "before_cursor_execute", count)
        for group, number in (("few", 40), ("many", 400)):
            holes = [f"{group} {hole}" for hole in range(number)]
            place = {"grid_uuid": "g", "gridsquare_uuid": "s"}
            record(connection, "foilhole", [{"uuid": hole, **place} for hole in holes])
            made = {"grid_uuid": "g", "group_uuid": group, "foilhole_uuids": holes}
            judged = {"event_type": "ctf.registered", "micrograph_uuid": "m", "quality": True}
            several = {"foilhole_uuids": [*holes, holes[0]], "prediction_model_name": "one"}
            of_group = {"group_uuid": group, "prediction_model_name": "other"}
            of_hole = {"foilhole_uuid": "h", "prediction_model_name": "one"}
            statements.clear()
            apply_event(connection, {"event_type": "foilhole.group_create", **made})
            for name, about, value in (
                ("foilhole.model_prediction", of_hole, 1.0),
                ("foilhole.model_multi_prediction", several, 0.2),
                ("foilhole.group_model_prediction", of_group, 0.6),
                ("foilhole.model_multi_prediction", several, 0.4),
            ):
                given = {"event_type": name, "prediction_value": value}
                apply_event(connection, given | about)
            apply_event(connection, judged)
            apply_event(connection, {"event_type": "refresh.predictions", "grid_uuid": "g"})
            counts.append(len(statements))
        event.remove(connection, "before_cursor_execute", count)
        overall = select(overall_prediction.c.foilhole_uuid, overall_prediction.c.value)
        found = dict(connection.execute(overall).tuples().all())
        history = connection.execute(select(func.count()).select_from(prediction)).scalar()
    assert counts[0] == counts[1]
    assert found.pop("h") == 1.0
    assert list(found.values()) == pytest.approx([0.5] * 440)
    assert history == 2 + 3 * 440


def test_a_model_that_was_wrong_all_night_still_predicts_what_no_other_does(
    database: Database,
) -> None:
    session(database)
    from skywright.instruments.epu.broker.quality import weights
    from skywright.instruments.epu.database.schema_quality import (
        overall_prediction,
        prediction_model,
    )

    with database.write() as connection:
        record(
            connection,
            "foilhole",
            [{"uuid": "h2", "grid_uuid": "g", "gridsquare_uuid": "s"}],
        )
        connection.execute(prediction_model.insert(), [{"name": "right"}, {"name": "wrong"}])
        event = {"event_type": "foilhole.model_prediction"}
        for hole, model, value in (("h", "right", 1.0), ("h", "wrong", 0.0), ("h2", "wrong", 0.8)):
            about = {"foilhole_uuid": hole, "prediction_model_name": model}
            apply_event(connection, event | about | {"prediction_value": value})
        judged = {"event_type": "ctf.registered", "micrograph_uuid": "m", "quality": True}
        for _ in range(170):  # 99^-170 is no number any more
            apply_event(connection, judged)
        overall = dict(
            connection.execute(
                select(overall_prediction.c.foilhole_uuid, overall_prediction.c.value)
            )
            .tuples()
            .all()
        )
        assert overall == pytest.approx({"h": 1.0, "h2": 0.8})
        assert weights(connection, "g") == pytest.approx(
            {("right", None): 1.0, ("wrong", None): 0.0}
        )
        record(
            connection,
            "micrograph",
            [{"uuid": "m2", "foilhole_uuid": "h2", "grid_uuid": "g", "gridsquare_uuid": "s"}],
        )
        apply_event(connection, judged | {"micrograph_uuid": "m2"})


def test_every_message_has_an_example_that_can_be_read() -> None:
    examples = example_events()
    types = [model.model_fields["event_type"].annotation for model in get_args(AnyEvent)]
    assert set(examples) == {name for each in types for name in get_args(each)}
    for name, body in examples.items():
        assert read_event(json.dumps(body).encode()).event_type == name
    with pytest.raises(DataError, match="total_motion"):
        read_event({"event_type": "motion_correction.completed", "micrograph_uuid": "m"})
