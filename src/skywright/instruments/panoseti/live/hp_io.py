"""The task that reads from the data acquisition, as InitHpIo configures it."""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from skywright.errors import ConfigError, SkywrightError
from skywright.instruments.panoseti.live.config import HpIoConfig, ServerConfig
from skywright.instruments.panoseti.live.follow import FileFollower
from skywright.instruments.panoseti.live.publish import Publisher
from skywright.instruments.panoseti.live.slots import Slots
from skywright.instruments.panoseti.live.sockets import serve_socket
from skywright.instruments.panoseti.products import PRODUCTS

logger = logging.getLogger(__name__)

SETTLE_S = 0.05
"""An acquisition method that cannot start fails within this time."""


class HpIo:
    """Start and stop the acquisition methods of one configuration.

    Parameters
    ----------
    server
        Settings of the server.
    slots
        Where frames go.
    on_failure
        Called with the reason when an acquisition method has ended by itself.

    Attributes
    ----------
    config
        What was started; None if nothing was.
    failure
        Why an acquisition method has ended by itself; empty while all of them run.
    publisher
        Of the running configuration, for uploaded images; it exists before the first one.
    """

    def __init__(
        self,
        server: ServerConfig,
        slots: Slots,
        on_failure: Callable[[str], Coroutine[Any, Any, None]],
    ) -> None:
        self.config: HpIoConfig | None = None
        self.failure = ""
        self.publisher = Publisher(slots, products=server.valid_data_products)
        self._server = server
        self._slots = slots
        self._on_failure = on_failure
        self._watching: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def valid(self) -> bool:
        """Whether a configuration runs and all its acquisition methods do."""
        return self.config is not None and not any(task.done() for task in self._tasks)

    async def _watch(self) -> None:
        """Wait for an acquisition method that ends by itself, and hand the reason on."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        task = done.pop()
        error = None if task.cancelled() else task.exception()
        reason = f"it failed with {type(error).__name__}: {error}" if error else "it has ended"
        self.failure = f"the data source {task.get_name()!r} is not read any more: {reason}"
        logger.error("%s", self.failure, exc_info=error)
        await self._on_failure(self.failure)

    async def start(self, config: HpIoConfig) -> None:
        """Stop what runs and start `config`.

        Raises
        ------
        ConfigError
            If an acquisition method cannot start. Nothing runs then.
        """
        await self.stop()
        try:
            await self._start(config)
        except BaseException:
            await self.stop()
            raise

    async def _start(self, config: HpIoConfig) -> None:
        modules, products = frozenset(config.module_ids), self._server.valid_data_products
        self.publisher = Publisher(self._slots, modules, products)
        self._tasks = [
            asyncio.create_task(method, name=name)
            for name, method in (await self._methods(config)).items()
        ]
        self.config = config
        done, _ = await asyncio.wait(
            self._tasks, timeout=SETTLE_S, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            try:
                task.result()
            except SkywrightError as failure:
                raise ConfigError(str(failure)) from failure
            raise ConfigError("the data source ended at once")
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stop what runs and empty the slots."""
        if self._watching is not None:
            self._watching.cancel()
        self.failure = ""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            limit_s = self._server.hp_io_stop_timeout
            done, running = await asyncio.wait(self._tasks, timeout=limit_s)
            for task in running:
                logger.error("%s has not ended within %g s", task.get_name(), limit_s)
            for task in done:
                if not task.cancelled():
                    task.exception()  # `_watch` has reported it
        self._tasks = []
        self.config = None
        self._slots.clear()

    async def _methods(self, config: HpIoConfig) -> dict[str, Coroutine[Any, Any, None]]:
        methods, publisher = self._server.acquisition_methods, self.publisher
        if config.simulate_daq:
            from skywright.instruments.panoseti.live.simulate import simulate, simulated_frames

            settings = self._server.simulate_daq_cfg
            frames = await asyncio.to_thread(simulated_frames, settings)
            return {"simulation": simulate(self._server, publisher, frames)}
        data_dir = Path(config.data_dir)
        reads_files = methods.polls_files or methods.filesystem_pipe.enabled
        if reads_files and not await asyncio.to_thread(os.path.isdir, config.data_dir):
            raise ConfigError(f"hp_io_config: data_dir {config.data_dir!r} is no directory")
        found: dict[str, Coroutine[Any, Any, None]] = {}
        if reads_files:
            # Where both are enabled, files are followed: clients would get each frame twice.
            pipe_name = "" if methods.polls_files else self._server.read_status_pipe_name
            interval_s = 0.0 if pipe_name else config.update_interval_seconds
            follower = FileFollower(data_dir, publisher, interval_s, pipe_name)
            found["pipe" if pipe_name else "files"] = follower.run()
        if methods.uds.enabled:
            for name in methods.uds.data_products:
                if name not in PRODUCTS or name not in self._server.valid_data_products:
                    raise ConfigError(f"uds.data_products: {name!r} is no valid data product")
                path = Path(methods.uds.socket_path_template.format(dp_name=name))
                found[f"socket {name}"] = serve_socket(
                    path, PRODUCTS[name], publisher, methods.uds.read_timeout
                )
        if not found:
            raise ConfigError("no acquisition method is enabled under acquisition_methods")
        return found
