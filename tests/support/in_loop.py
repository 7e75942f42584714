"""Run a coroutine on an event loop of its own, beside the test."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def running(make: Callable[[], Coroutine[Any, Any, None]], limit_s: float = 20.0) -> Iterator[None]:
    """Run what `make` gives until the block ends; it is cancelled then and must end in time."""
    begun = threading.Event()
    tasks: list[asyncio.Task[None]] = []
    errors: list[BaseException] = []

    async def main() -> None:
        tasks.append(asyncio.ensure_future(make()))
        begun.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not tasks[0].cancelled() and tasks[0].exception() is not None:
            errors.append(tasks[0].exception())  # type: ignore[arg-type]

    loops: list[asyncio.AbstractEventLoop] = []

    def run() -> None:
        with asyncio.Runner() as runner:
            loops.append(runner.get_loop())
            runner.run(main())

    thread = threading.Thread(target=run, name="test-loop")
    thread.start()
    assert begun.wait(limit_s)
    try:
        yield
    finally:
        if thread.is_alive():
            loops[0].call_soon_threadsafe(tasks[0].cancel)
        thread.join(limit_s)
    assert not thread.is_alive(), "does not end"
    assert not errors, errors
