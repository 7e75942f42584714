"""Clients that stream live images while a run is taken."""

import asyncio
import threading
from collections import Counter
from collections.abc import Mapping

from skywright.errors import HardwareError
from skywright.instruments.panoseti.live.client import stream

END_S = 10.0


class StreamClients:
    """Two clients of one server, each with a stream of its own, for the time of a with block.

    Parameters
    ----------
    host
        ``HOST:PORT``.

    Attributes
    ----------
    received
        Of each client the number of images of each module.
    error
        Why a stream has failed; empty if none has.
    """

    def __init__(self, host: str) -> None:
        self.received = [Counter[int](), Counter[int]()]
        self.error = ""
        self._host = host
        self._loop, self._end = asyncio.new_event_loop(), asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="stream-clients", daemon=True)

    def __enter__(self) -> "StreamClients":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(END_S)

    def counts(self) -> Mapping[str, int]:
        """Return the images of each client, by ``client_1_images``."""
        return {f"client_{n}_images": each.total() for n, each in enumerate(self.received, 1)}

    def _work(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._stream_all())

    async def _stream_all(self) -> None:
        """Stream until the end; then the runner cancels the streams."""
        tasks = [asyncio.create_task(self._stream(each)) for each in self.received]
        await self._end.wait()
        del tasks  # held until here: the loop alone would forget them

    async def _stream(self, received: Counter[int]) -> None:
        try:
            async for image in stream(self._host):
                received[image.module] += 1
        except HardwareError as error:
            self.error = str(error)
