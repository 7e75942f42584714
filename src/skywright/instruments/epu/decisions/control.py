"""Suggestions on their way to the acquisition software, as instructions to its agent.

The beamline sends a suggestion to the API as instructions for the agent on the microscope's
machine. The agent hands each to the acquisition-control service there and acknowledges it with
what that answers.
"""

import logging
import threading
from typing import Any
from urllib.parse import quote

from skywright.acquire.newest import NewestQueue
from skywright.errors import HardwareError
from skywright.instruments.epu.agent.client import ApiClient
from skywright.instruments.epu.agent.control import PREFIX
from skywright.instruments.epu.decisions.policy import Suggestion
from skywright.waiting import back_off

logger = logging.getLogger(__name__)

RETRY_S = (2.0, 10.0)
"""First and longest wait before trying again what the API has not taken."""
TIMEOUT_S = 10.0


class InstructionSender:
    """Sends suggestions to the API from a thread of its own; the newest replaces those that wait.

    Parameters
    ----------
    client
        Of the API; it is closed with this.
    session_id
        Of the agent.
    """

    def __init__(self, client: ApiClient, session_id: str) -> None:
        self.problem = ""
        self._client = client
        self._path = f"/debug/session/{quote(session_id, safe='')}"
        self._waiting: NewestQueue[tuple[str, Suggestion] | None] = NewestQueue()
        self._stopped = threading.Event()
        self._grid = ""
        self._last: dict[str, Any] = {}
        """What tells the last instruction of each kind from the next one, for this grid."""
        self._thread = threading.Thread(target=self._work, name="epu-instructions", daemon=True)
        self._thread.start()

    def send(self, grid: str, suggestion: Suggestion) -> None:
        """Send a suggestion for a grid soon."""
        self._waiting.offer((grid, suggestion))

    def close(self) -> None:
        """End; what waits is not sent."""
        self._stopped.set()
        self._waiting.offer(None)
        self._thread.join(TIMEOUT_S)
        self._client.close()

    def _work(self) -> None:
        wanted, delays = None, back_off(RETRY_S)
        while not self._stopped.is_set():
            wanted = self._waiting.get(0.0 if wanted else threading.TIMEOUT_MAX) or wanted
            if wanted is None:  # the end
                continue
            try:
                self._send(*wanted)
                wanted, self.problem, delays = None, "", back_off(RETRY_S)
            except HardwareError as error:
                self.problem = str(error)
                logger.warning("suggestion not sent yet: %s", error)
                self._stopped.wait(next(delays))

    def _send(self, grid: str, suggestion: Suggestion) -> None:
        if grid != self._grid:  # its squares have the same ids if it was taken with the same atlas
            self._grid, self._last = grid, {}
        # The order changes a little with each result; what counts is which square is next, and
        # which of its holes.
        squares, skipped = suggestion.squares, suggestion.skipped
        if squares or "reorder_gridsquares" in self._last:
            self._instruct("reorder_gridsquares", squares[:1], suggestion, gridsquare_ids=squares)
        self._instruct(
            "skip_gridsquares", tuple(sorted(skipped)), suggestion, gridsquare_ids=skipped
        )
        if suggestion.holes and not self._is_rest(suggestion):
            self._instruct(
                "reorder_foilholes",
                (squares[0], suggestion.holes, suggestion.skipped_holes),
                suggestion,
                gridsquare_id=squares[0],
                foilhole_ids=suggestion.holes,
                skipped_foilhole_ids=suggestion.skipped_holes,
            )

    def _is_rest(self, suggestion: Suggestion) -> bool:
        """Return whether the holes are those that were sent, less those taken since."""
        square, holes, skipped = self._last.get("reorder_foilholes", ("", (), ()))
        left = tuple(hole for hole in holes if hole in set(suggestion.holes))
        return (
            suggestion.squares[:1] == (square,)
            and suggestion.holes == left
            and set(suggestion.skipped_holes) <= set(skipped)
        )

    def _instruct(self, kind: str, key: Any, suggestion: Suggestion, **payload: Any) -> None:
        """Send an instruction if its key is not that of the last one of its kind."""
        if self._last.get(kind) == key:
            return
        body = {
            "instruction_type": PREFIX + kind,
            "payload": {**payload, "reason": suggestion.reason},
            "priority": "high",
        }
        answer = self._client.request("POST", f"{self._path}/create-instruction", body)
        if answer.status_code != 200:
            raise HardwareError(f"instruction {kind}: {answer.status_code} {answer.text[:200]}")
        self._last[kind] = key
