"""Objects that hold large arrays, through a pipe between two processes, each array copied once.

`Connection.send` copies arrays into one message before it writes, and `Connection.recv` copies them
out again; for the images of eight tiles that takes as long as the sums of ten shots.
"""

import os
import pickle
from multiprocessing.connection import Connection
from typing import Any

import numpy as np


def send_large(end: Connection, value: Any) -> None:
    """Send an object; the other end takes it with `receive_large`, after one with `recv`."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    end.send((data, [view.nbytes for view in views]))
    for view in views:
        while view:
            view = view[os.write(end.fileno(), view) :]


def receive_large(end: Connection, message: tuple[bytes, list[int]]) -> Any:
    """Receive an object whose first message, of `send_large`, has been received.

    Raises
    ------
    EOFError
        If the other end closes before it is complete.
    """
    data, sizes = message
    # A bytearray would be filled with zeros.
    buffers = [memoryview(np.empty(size, np.uint8)) for size in sizes]  # type: ignore[arg-type]
    for buffer in buffers:
        view = buffer
        while view:
            count = os.readv(end.fileno(), [view])
            if not count:
                raise EOFError
            view = view[count:]
    return pickle.loads(data, buffers=buffers)
