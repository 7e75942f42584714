"""The acquisition-control service beside EPU, to which the agent hands instructions."""

from functools import partial
from typing import Any

import httpx

from skywright.errors import HardwareError
from skywright.instruments.epu.agent.client import checked_url
from skywright.instruments.epu.agent.instructions import DeclinedError, Handler

KINDS = ("move_stage", "take_image", "reorder_gridsquares", "skip_gridsquares", "reorder_foilholes")
PREFIX = "microscope.control."
TIMEOUT_S = 10.0


class ControlClient:
    """The acquisition-control service on the microscope's machine.

    Each instruction is a POST of its payload to ``URL/KIND``, for example
    ``URL/reorder_gridsquares``. An answer 2xx, with JSON or another text, is done; 4xx is declined
    with its text.

    Parameters
    ----------
    url
        Of the service.
    """

    def __init__(self, url: str) -> None:
        base = checked_url("acquisition control", url)
        # By http it is on this machine or near, where no proxy leads; https may need the
        # certificates that the environment names.
        self._http = httpx.Client(
            base_url=base, timeout=TIMEOUT_S, trust_env=base.scheme == "https"
        )

    def order(self, kind: str, payload: dict[str, Any]) -> Any:
        """Hand an instruction to the service; return its answer.

        Raises
        ------
        DeclinedError
            The service does not want it.
        HardwareError
            There is no answer, or the service failed.
        """
        try:
            answer = self._http.post(f"/{kind}", json=payload)
        except httpx.HTTPError as error:
            raise HardwareError(f"acquisition control, {kind}: {error}") from error
        if 400 <= answer.status_code < 500:
            raise DeclinedError(f"acquisition control, {kind}: {answer.text[:500]}")
        if answer.status_code >= 300:
            raise HardwareError(f"acquisition control, {kind}: status {answer.status_code}")
        try:
            return answer.json() if answer.content else None
        except ValueError:
            return answer.text

    def handlers(self) -> dict[str, Handler]:
        """Return what the agent does with instructions for the microscope."""
        return {PREFIX + kind: partial(self.order, kind) for kind in KINDS}

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
