"""The task that reads from the data acquisition, as InitHpIo configures it."""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from skywright.errors import ConfigError, SkywrightError
from skywright.instruments.panoseti.live.config import HpIoConfig, ServerConfig
from skywright.instruments.panoseti.live.follow import FileFollower
from skywright.instruments.panoseti.live.pipe import PipeReader
from skywright.instruments.panoseti.live.publish import Publisher
from skywright.instruments.panoseti.live.slots import Slots
from skywright.instruments.panoseti.live.sockets import serve_socket
from skywright.instruments.panoseti.products import PRODUCTS

logger = logging.getLogger(__name__)

SETTLE_S = 0.05
"""A way in that cannot start fails within this time."""


class HpIo:
    """Start and stop the ways in of one configuration.

    Parameters
    ----------
    server
        Settings of the server.
    slots
        Where frames go.

    Attributes
    ----------
    config
        What runs now; None if nothing does.
    publisher
        Of the running configuration, for uploaded images; it exists before the first one.
    """

    def __init__(self, server: ServerConfig, slots: Slots) -> None:
        self.config: HpIoConfig | None = None
        self.publisher = Publisher(slots)
        self._server = server
        self._slots = slots
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def valid(self) -> bool:
        """Whether a configuration runs and all its ways in do."""
        return self.config is not None and not any(task.done() for task in self._tasks)

    async def start(self, config: HpIoConfig) -> None:
        """Stop what runs and start `config`.

        Raises
        ------
        ConfigError
            If a way in cannot start. Nothing runs then.
        """
        await self.stop()
        self.publisher = Publisher(self._slots, frozenset(config.module_ids))
        self._tasks = [
            asyncio.create_task(way, name=name) for name, way in self._ways(config).items()
        ]
        self.config = config
        done, _ = await asyncio.wait(
            self._tasks, timeout=SETTLE_S, return_when=asyncio.FIRST_COMPLETED
        )
        failures = [task.exception() for task in done if not task.cancelled()]
        if done:
            await self.stop()
            for failure in failures:
                if isinstance(failure, SkywrightError):
                    raise ConfigError(str(failure)) from failure
                if failure is not None:
                    raise failure
            raise ConfigError("the data source ended at once")
        for task in self._tasks:
            task.add_done_callback(_log_failure)

    async def stop(self) -> None:
        """Stop what runs and empty the slots."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError, Exception):
                await task
        self._tasks = []
        self.config = None
        self._slots.clear()

    def _ways(self, config: HpIoConfig) -> dict[str, Coroutine[Any, Any, None]]:
        methods, publisher = self._server.acquisition_methods, self.publisher
        if config.simulate_daq:
            from skywright.instruments.panoseti.live.simulate import simulate

            return {"simulation": simulate(self._server, publisher)}
        data_dir = Path(config.data_dir)
        ways: dict[str, Coroutine[Any, Any, None]] = {}
        if methods.filesystem_poll.enabled:
            follower = FileFollower(data_dir, publisher, config.update_interval_seconds)
            ways["files"] = follower.run()
        if methods.filesystem_pipe.enabled:
            pipe_name = self._server.read_status_pipe_name
            ways["pipe"] = PipeReader(data_dir, publisher, pipe_name).run()
        if methods.uds.enabled:
            for name in methods.uds.data_products:
                if name not in PRODUCTS or name not in self._server.valid_data_products:
                    raise ConfigError(f"uds.data_products: {name!r} is no valid data product")
                path = Path(methods.uds.socket_path_template.format(dp_name=name))
                ways[f"socket {name}"] = serve_socket(path, PRODUCTS[name], publisher)
        if not ways:
            raise ConfigError("no way in is enabled under acquisition_methods")
        return ways


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("%s failed", task.get_name(), exc_info=task.exception())
