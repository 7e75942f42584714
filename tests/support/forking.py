"""A forked child of a test, as multiprocessing makes its workers."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def forked_child() -> Iterator[None]:
    """Fork this process; the child does nothing, and is killed at the end of the with block."""
    ready, child_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(child_end, b"x")
        while True:
            signal.pause()
    try:
        os.read(ready, 1)
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(child_end)
