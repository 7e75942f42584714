"""Start an IOC as users do, in a process of its own, on a port of the session's pool."""

import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from support.ready_process import ReadyProcess, ended_after

_in_use: set[int] = set()


class IocProcess(ReadyProcess):
    """A running IOC.

    Parameters
    ----------
    module
        ``iocs.axis``.
    *args
        Of the module, without prefix and port.
    prefix
        Of its PVs; by default one that nobody else has.
    port
        A port of the pool (``SKYWRIGHT_TEST_CA_PORTS``); by default one that is free.
    limit_s
        Time to get ready.
    """

    def __init__(
        self,
        module: str,
        *args: str,
        prefix: str | None = None,
        port: int | None = None,
        limit_s: float = 240.0,
        **environment: str,
    ) -> None:
        self.module, self.args = module, args
        self.prefix = prefix or f"T{uuid.uuid4().hex[:8].upper()}:"
        pool = [int(text) for text in os.environ["SKYWRIGHT_TEST_CA_PORTS"].split(",")]
        self.port = port or next(each for each in pool if each not in _in_use)
        _in_use.add(self.port)
        where = ("--prefix", self.prefix, "--port", str(self.port))
        super().__init__("-m", module, *where, "-v", *args, limit_s=limit_s, **environment)

    def end(self, number: signal.Signals, limit_s: float = 120.0) -> int:
        """End it by a signal; return the exit status. Its port is free again."""
        try:
            return super().end(number, limit_s)
        finally:
            _in_use.discard(self.port)

    def again(self, *args: str) -> "IocProcess":
        """Start it again, with the same prefix and port, as a supervisor does."""
        return IocProcess(self.module, *(args or self.args), prefix=self.prefix, port=self.port)


@contextmanager
def running_ioc(module: str, *args: str, **environment: str) -> Iterator[IocProcess]:
    """Run an IOC for the time of a with block; its log is shown when the block fails."""
    with ended_after(IocProcess(module, *args, **environment)) as ioc:
        yield ioc
