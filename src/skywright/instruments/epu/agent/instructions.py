"""Taking instructions from the API: each is carried out once and answered."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from skywright.errors import SkywrightError
from skywright.instruments.epu.agent.upload import ACKNOWLEDGE
from skywright.instruments.epu.database import Database, report_failure
from skywright.instruments.epu.database.schema import setting
from skywright.instruments.epu.database.write import announce, set_values

log = logging.getLogger(__name__)

RETRY_S = 1.0
MARK = "instruction "
"""Beginning of the name of a setting that says of an instruction that it was begun; its value is
the path of the session's instructions, and the time of the answer once that is stored."""

Handler = Callable[[dict[str, Any]], Any]
"""Carries out an instruction, from its payload, and gives a result that JSON can hold."""


class DeclinedError(SkywrightError):
    """A handler cannot or may not carry out an instruction."""


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Read server-sent events; those whose data is no JSON object are left out.

    Parameters
    ----------
    lines
        Lines of the stream without line ends.

    Yields
    ------
    dict
        The data of an event; its ``type`` is the event's name where the data has none.
    """
    name = "message"
    data: list[str] = []
    for line in lines:
        if not line:
            if data:
                event = _object("\n".join(data))
                if event is not None:
                    yield {"type": name, **event}
            name, data = "message", []
        elif line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        log.warning("event that is no JSON: %.200s", text)
        return None
    return found if isinstance(found, dict) else None


def carry_out(
    database: Database,
    handlers: Mapping[str, Handler],
    path: str,
    event: dict[str, Any],
    stopped: threading.Event,
) -> str | None:
    """Carry out an instruction and put the answer into the outbox.

    Parameters
    ----------
    database
        The watcher's database. It keeps the ids of the instructions that were carried out: one
        that comes a second time is not carried out again.
    handlers
        What to do for each type of instruction.
    path
        Path of the session's instructions, ``/agent/A/session/S/instructions``.
    event
        The instruction.
    stopped
        Ends the tries to store the answer, which are made while the database fails.

    Returns
    -------
    str or None
        ``processed``, ``failed`` or ``declined``; None where it was carried out before.
    """
    number = str(event.get("instruction_id", ""))
    mark = MARK + number
    with database.write() as connection:
        query = select(setting.c.name).where(setting.c.name == mark)
        if connection.execute(query).first() is not None:
            return None
        connection.execute(setting.insert().values(name=mark, value=path))
    begun = time.monotonic()
    status, result, problem = _run(handlers, event)
    answer = {
        "status": status,
        "result": result,
        "error_message": problem,
        "processing_time_ms": round(1e3 * (time.monotonic() - begun), 3),
    }
    _put(database, path, number, answer, stopped)
    log.info("instruction %s %s: %s", number, event.get("instruction_type"), status)
    return status


def answer_unfinished(database: Database, path: str) -> None:
    """Answer the instructions of a session that an agent was carrying out when it was killed.

    They are not carried out again, for they may move the microscope. Call this while none is
    carried out.

    Parameters
    ----------
    database
        The watcher's database.
    path
        Path of the session's instructions.
    """
    mine = (setting.c.name.startswith(MARK), setting.c.value == path)
    why = "the agent was ended before its answer was stored; what the instruction did is not known"
    with database.write() as connection:
        for mark in connection.execute(select(setting.c.name).where(*mine)).scalars().all():
            answer = {"status": "failed", "error_message": why}
            _store(connection, path, mark.removeprefix(MARK), answer)


def _run(
    handlers: Mapping[str, Handler], event: dict[str, Any]
) -> tuple[str, str | None, str | None]:
    kind = str(event.get("instruction_type"))
    handler = handlers.get(kind)
    if handler is None:
        return "declined", None, f"this agent does not know {kind}"
    payload = event.get("payload")
    try:
        result = handler(payload if isinstance(payload, dict) else {})
        return "processed", json.dumps(result), None
    except DeclinedError as error:
        return "declined", None, str(error)
    except Exception as error:  # whatever a handler raises is the answer, and the agent goes on
        log.exception("instruction %s", kind)
        return "failed", None, f"{type(error).__name__}: {error}"


def _put(
    database: Database, path: str, number: str, answer: dict[str, Any], stopped: threading.Event
) -> None:
    """Put an answer into the outbox, however often it takes: the instruction never comes again."""
    trouble = ""
    while True:
        try:
            with database.write() as connection:
                _store(connection, path, number, answer)
            return
        except SQLAlchemyError as error:
            trouble = report_failure("an answer waits", error, trouble)
            if stopped.wait(RETRY_S):
                raise


def _store(connection: Connection, path: str, number: str, answer: dict[str, Any]) -> None:
    now = datetime.now(UTC).isoformat()
    row = {"path": f"{path}/{number}/ack", "acknowledgement": {**answer, "processed_at": now}}
    announce(connection, [{"event_type": ACKNOWLEDGE, **row}])
    set_values(connection, setting, setting.c.name == MARK + number, value=now)
