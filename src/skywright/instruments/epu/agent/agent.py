"""The agent's threads: sending, taking instructions, heartbeats."""

import logging
import platform
import threading
from collections.abc import Mapping
from itertools import repeat
from typing import Any
from urllib.parse import quote

from skywright import __version__
from skywright.instruments.epu.agent.client import ApiClient, ApiSettings, ServerUnavailableError
from skywright.instruments.epu.agent.information import counts, errors, orphans
from skywright.instruments.epu.agent.instructions import (
    DeclinedError,
    Handler,
    answer_unfinished,
    carry_out,
    events,
)
from skywright.instruments.epu.agent.upload import Uploader
from skywright.instruments.epu.database import Database, report_failure
from skywright.waiting import back_off

log = logging.getLogger(__name__)

IDLE_S = 0.5
"""Longest delay of a change that `wake` does not report."""
RETRY_S = (0.5, 30.0)
"""First and longest wait before trying again while the API is away."""
HEARTBEAT_S = 30.0
SILENCE_S = 90.0
"""The API sends a heartbeat each 30 s; three missed ones are a lost connection."""


class Agent:
    """Send what a watcher records to an API and carry out instructions from there.

    Parameters
    ----------
    database
        The watcher's database, opened with ``announce=True``.
    settings
        How to reach the API.
    agent_id
        Name of this agent; the computer's name without one.
    session_id
        Name of the session for instructions; one for each watched directory.
    handlers
        What to do for each type of instruction, beside those that the agent answers itself:
        ``agent.status.request``, ``agent.info.*`` and ``agent.config.update``.
    """

    def __init__(
        self,
        database: Database,
        settings: ApiSettings,
        *,
        agent_id: str | None = None,
        session_id: str | None = None,
        handlers: Mapping[str, Handler] | None = None,
    ) -> None:
        self._database = database
        self._client = ApiClient(settings)
        self._uploader = Uploader(database, self._client)
        self.agent_id = agent_id or platform.node() or "agent"
        self.session_id = session_id or self.agent_id
        self._heartbeat = HEARTBEAT_S
        own: dict[str, Handler] = {
            "agent.status.request": lambda payload: self.state(),
            "agent.info.metrics": lambda payload: self.state(),
            "agent.info.datastore": lambda payload: counts(database),
            "agent.info.errors": lambda payload: errors(database),
            "agent.info.orphans": lambda payload: orphans(database),
            "agent.config.update": self._configure,
        }
        self._handlers = {**own, **(handlers or {})}
        self.away: str | None = None
        """Why the API cannot be reached; None where it can."""
        self._is_failing = False
        """Whether the last try to send has failed, for whatever reason."""
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=work.__name__.strip("_"), daemon=True)
            for work in (self._send, self._take, self._beat)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Send now what was recorded."""
        self._wake.set()

    def offer(self, result: object) -> None:
        """Send now what a watcher has committed."""
        self.wake()

    def wait_until_sent(self, stopped: threading.Event) -> None:
        """Wait until all that can be sent is sent, sending fails, or `stopped` is set."""
        while not self._is_failing and self._uploader.pending() > self._uploader.waiting:
            if stopped.wait(IDLE_S):
                return

    def close(self, drain: float = 5.0) -> int:
        """Send what is left for at most `drain` seconds, then end.

        Returns
        -------
        int
            Number of changes that were not sent; they are sent when the agent runs again.
        """
        self._stop.set()
        self._wake.set()
        self._threads[0].join(drain)
        left = self._uploader.pending()
        self._client.close()
        return left

    def state(self) -> dict[str, Any]:
        """Give counts for people and for the API."""
        return {
            "agent_id": self.agent_id,
            "session_id": self.session_id,
            "version": __version__,
            "pending": self._uploader.pending(),
            "sent": self._uploader.sent,
            "refused": self._uploader.refused,
            "waiting": self._uploader.waiting,
            "away": self.away,
        }

    def _configure(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Change settings until the agent ends: ``log_level`` and ``heartbeat_interval``."""
        unknown = payload.keys() - {"log_level", "heartbeat_interval"}
        if unknown or not payload:
            raise DeclinedError(
                f"{', '.join(sorted(unknown)) or 'no setting'}:"
                " the settings are log_level and heartbeat_interval"
            )
        level = str(payload.get("log_level", "INFO")).upper()
        if level not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
            raise DeclinedError(f"log_level {level}: expected DEBUG, INFO, WARNING or ERROR")
        interval = payload.get("heartbeat_interval", self._heartbeat)
        if type(interval) not in (int, float) or not 1 <= interval <= 3600:
            raise DeclinedError(f"heartbeat_interval {interval}: expected 1 to 3600 seconds")
        self._heartbeat = float(interval)
        if "log_level" in payload:
            logging.getLogger("skywright").setLevel(level)
        return payload

    def _send(self) -> None:
        delays, trouble = back_off(RETRY_S), ""
        while True:
            self._wake.clear()
            stopping = self._stop.is_set()
            try:
                while self._uploader.upload():
                    self._report(None)
                self._is_failing = False
            except Exception as error:
                self._is_failing = True
                if stopping:
                    return
                if isinstance(error, ServerUnavailableError):
                    self._report(str(error))
                else:
                    trouble = report_failure("sending to the API", error, trouble)
                self._stop.wait(next(delays))
                continue
            delays, trouble = back_off(RETRY_S), ""
            self._report(None)
            if stopping:
                return
            self._wake.wait(IDLE_S)

    def _report(self, reason: str | None) -> None:
        if (reason is None) != (self.away is None):
            if reason is not None:
                log.error("the API is away, changes are kept: %s", reason)
            else:
                log.info("the API is back")
        self.away = reason

    @property
    def _path(self) -> str:
        names = (quote(name, safe="") for name in (self.agent_id, self.session_id))
        return "/agent/{}/session/{}".format(*names)

    def _take(self) -> None:
        delays, trouble, is_made = back_off(RETRY_S), "", False
        session = {"session_id": self.session_id, "agent_id": self.agent_id}
        while not self._stop.is_set():
            try:
                answer_unfinished(self._database, f"{self._path}/instructions")
                if not is_made:  # one that an operator closes later stays closed
                    made = self._client.request("POST", "/debug/sessions/create", session)
                    is_made = made.is_success
                with self._client.stream(f"{self._path}/instructions/stream", SILENCE_S) as stream:
                    delays = back_off(RETRY_S)
                    for event in events(stream.iter_lines()):
                        self._event(event)
                        if event["type"] == "instruction":
                            trouble = ""
                        if event["type"] == "error":
                            delays = repeat(RETRY_S[1])  # asking again soon does not help
                            is_made = is_made and "not found" not in str(event.get("message"))
                        if self._stop.is_set():
                            return
            except ServerUnavailableError as error:
                log.info("instructions: %s", error)
            except Exception as error:
                if self._stop.is_set():
                    return
                trouble = report_failure("instructions", error, trouble)
            self._stop.wait(next(delays))

    def _event(self, event: dict[str, Any]) -> None:
        if event["type"] == "instruction":
            path = f"{self._path}/instructions"
            carry_out(self._database, self._handlers, path, event, self._stop)
            self.wake()
        elif event["type"] == "error":
            log.error("instructions: %s", event.get("message"))

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat):
            try:
                self._client.request("POST", f"{self._path}/heartbeat")
            except ServerUnavailableError as error:
                log.debug("heartbeat: %s", error)
            except RuntimeError:  # the client was closed meanwhile
                return
