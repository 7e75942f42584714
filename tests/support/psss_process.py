"""The service as a process of its own, as an operator starts it."""

from collections.abc import Iterator
from contextlib import contextmanager

from support.ready_process import ReadyProcess, ended_after

MAIN = ("-m", "skywright.cli", "psss", "serve")
OLD_MAIN = ("-c", "from skywright.instruments.psss.cli.psss_processing import main; main()")


class ServiceProcess(ReadyProcess):
    """A running service; its ports are in `ready`."""

    def __init__(self, *args: str, main: tuple[str, ...] = MAIN) -> None:
        super().__init__(*main, *args)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.ready['rest_port']}"


@contextmanager
def running(*args: str, main: tuple[str, ...] = MAIN) -> Iterator[ServiceProcess]:
    """Run the service for the time of a with block; its log is shown when the block fails."""
    with ended_after(ServiceProcess(*args, main=main)) as service:
        yield service
