"""The server of the double: answers calls over a local socket while simulated time goes on."""

import json
import logging
import socket as sockets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from skywright.errors import ConfigError
from skywright.instruments.sacla.facility.link import APIError
from skywright.instruments.sacla.facility.settings import FacilitySettings
from skywright.instruments.sacla.facility.simulated import SimulatedFacility
from skywright.instruments.sacla.facility.wire import Channel
from skywright.processes.sockets import claim_socket

logger = logging.getLogger(__name__)

TICK_S = 0.005
"""Time between two looks at what is due."""
OF_MODULES = ("read_", "open_", "collect")
"""Begin of the names of the methods of `SimulatedFacility` for the facility's modules; its other
public ones are for control clients."""


class FacilityServer:
    """Serves a simulated facility until it is stopped.

    Parameters
    ----------
    settings
        What is simulated.
    socket
        Path of the local socket; its directory is made.

    Raises
    ------
    ConfigError
        If another server listens there, a file is there that is no socket, or it cannot be made.
    """

    def __init__(self, settings: FacilitySettings, socket: Path) -> None:
        self.socket = socket
        self.simulated = SimulatedFacility(settings)
        self._stopping = threading.Event()
        try:
            claim_socket(socket)
            socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._listener = sockets.socket(sockets.AF_UNIX)
            self._listener.bind(str(socket))
            self._listener.listen(64)
        except OSError as error:
            raise ConfigError(f"socket {socket}: cannot be made ({error})") from None

    def run(self) -> None:
        """Serve until `stop`."""
        threading.Thread(target=self._accept, name="facility-accept", daemon=True).start()
        before = time.monotonic()
        while not self._stopping.wait(TICK_S):
            now = time.monotonic()
            if not self.simulated.settings.manual:
                self.simulated.advance(now - before)
            before = now
        self.socket.unlink(missing_ok=True)
        self._listener.close()

    def stop(self) -> None:
        """End `run` soon; from any thread."""
        self._stopping.set()

    def _reset(self, settings: dict[str, Any]) -> None:
        """Begin anew with other settings."""
        try:
            self.simulated = SimulatedFacility(FacilitySettings(**settings))
        except ValidationError as error:
            raise APIError(str(error)) from None

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection = Channel(self._listener.accept()[0])
            except OSError as error:
                if not self._stopping.wait(TICK_S):
                    logger.warning("a client could not connect: %s", error)
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Channel) -> None:
        with connection, suppress(OSError):
            while True:
                name, *arguments = json.loads(connection.receive())
                self._answer(connection, name, arguments)

    def _answer(self, connection: Channel, name: str, arguments: list[Any]) -> None:
        pixels, simulated = None, self.simulated
        if simulated.settings.call_s and name.startswith(OF_MODULES):
            self._stopping.wait(simulated.settings.call_s)
        try:
            with simulated.changed:
                value = self._function(simulated, name)(*arguments)
            if name in ("collect", "collect_stored"):
                tag, image, facts = value
                pixels = np.ascontiguousarray(image)
                value = {"tag": tag, "shape": image.shape, "info": facts}
            answer: dict[str, Any] = {"value": value}
        except APIError as error:
            answer = {"error": "api", "message": str(error)}
        except TypeError as error:
            answer = {"error": "type", "message": f"{name}: {error}"}
        connection.send(json.dumps(answer).encode())
        if pixels is not None:
            connection.send(pixels.data.cast("B"))

    def _function(self, simulated: SimulatedFacility, name: str) -> Callable[..., Any]:
        if name == "reset":
            return self._reset
        if name.startswith("_") or name not in vars(SimulatedFacility):
            raise APIError(f"no call {name}")
        function: Callable[..., Any] = getattr(simulated, name)
        return function
