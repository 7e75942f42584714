"""Frames that Hashpipe pushes: one listening Unix socket for each product.

A message is a module number (2 bytes, BIG-endian) and one whole PFF frame.
"""

import asyncio
import logging
from pathlib import Path

import numpy as np

from skywright.errors import ConfigError, DataError
from skywright.instruments.panoseti.frames import make_frames
from skywright.instruments.panoseti.live.publish import Publisher
from skywright.instruments.panoseti.pff_layout import (
    HEADER_END,
    LONGEST_HEADER,
    HeaderLayout,
    read_layout,
)
from skywright.instruments.panoseti.products import HIGHEST_MODULE, Product
from skywright.processes.sockets import claim_socket, remove_socket

logger = logging.getLogger(__name__)

MODULE_BYTES = 2
READ_BYTES = 1 << 18


class FrameStream:
    """Cut a byte stream into messages and publish their frames."""

    def __init__(self, product: Product, publisher: Publisher) -> None:
        self.product = product
        self.frames = 0
        self._publisher = publisher
        self._pending = bytearray()
        self._layout: HeaderLayout | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises
        ------
        DataError
            If they are no messages; the stream cannot be cut any further.
        """
        pending = self._pending
        pending += data
        begin = 0
        while True:
            start = begin + MODULE_BYTES
            end = pending.find(HEADER_END, start, start + LONGEST_HEADER)
            if end < 0:
                if len(pending) - start >= LONGEST_HEADER:
                    raise DataError(f"no PFF header in {LONGEST_HEADER} bytes")
                break
            stop = end + len(HEADER_END) + self.product.image_bytes
            if stop > len(pending):
                break
            module = int.from_bytes(pending[begin:start], "big")
            if module > HIGHEST_MODULE:
                raise DataError(f"module number {module} is above {HIGHEST_MODULE}")
            self._publish(module, bytes(pending[start:stop]))
            begin = stop
        del pending[:begin]

    def _publish(self, module: int, frame: bytes) -> None:
        if self._layout is None:
            self._layout = read_layout(frame, self.product)
        product = self.product
        length, numbers, quabo = self._layout.parse(frame)
        if length != len(frame) - product.image_bytes:
            raise DataError(f"a {product.name} header differs from the first one")
        image = np.frombuffer(frame, product.dtype, offset=length)
        frames = make_frames(
            product,
            module,
            f"uds_{product.name}",
            np.array([self.frames]),
            np.zeros(1, np.int64),
            quabo,
            numbers[np.newaxis],
            image.reshape(1, product.side, product.side),
        )
        self.frames += 1
        self._publisher.publish(frames, 0, pushed=True)


async def serve_socket(
    path: Path, product: Product, publisher: Publisher, read_timeout_s: float
) -> None:
    """Listen for frames of one product until cancelled.

    A connection is closed when nothing came over it for `read_timeout_s`: its other end may be
    gone, and Hashpipe connects again by itself.

    Raises
    ------
    ConfigError
        If a live server holds the socket, or the path cannot be used.
    """
    await asyncio.to_thread(claim_socket, path)
    open_ones: set[asyncio.StreamWriter] = set()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take the frames of one connection."""
        open_ones.add(writer)
        stream = FrameStream(product, publisher)
        try:
            while True:
                async with asyncio.timeout(read_timeout_s):
                    data = await reader.read(READ_BYTES)
                if not data:
                    break
                stream.feed(data)
        except TimeoutError:
            logger.warning("socket of %s closed: no data for %g s", product.name, read_timeout_s)
        except DataError as error:
            # Hashpipe connects again by itself, at the start of a message.
            logger.error("socket of %s closed: %s", product.name, error)
        except OSError:
            logger.debug("socket of %s: the other end has gone", product.name)
        finally:
            open_ones.discard(writer)
            writer.close()

    try:
        server = await asyncio.start_unix_server(take, str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    identity = path.stat().st_ino
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        server.close()
        for writer in open_ones:
            writer.close()
        remove_socket(path, identity)
