"""The PSSS service: the owner of the pulses with its output stream, averages and REST API.

The IOC adds the PVs and the recorders.
"""

import argparse
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skywright.arguments import check_output_directory
from skywright.errors import SkywrightError
from skywright.instruments.psss.averages import AverageEndpoint
from skywright.instruments.psss.background import History
from skywright.instruments.psss.continuity import Continuity
from skywright.instruments.psss.endpoints.autosave import Autosave
from skywright.instruments.psss.endpoints.background_recorder import BackgroundRecorder
from skywright.instruments.psss.endpoints.options import channel_prefix, make_source
from skywright.instruments.psss.endpoints.parameters import Parameters
from skywright.instruments.psss.endpoints.rest import rest_app
from skywright.instruments.psss.endpoints.stream import StreamEndpoint
from skywright.instruments.psss.processing import warm_up
from skywright.instruments.psss.processor import WARMING_UP, Processor
from skywright.instruments.psss.settings import Settings
from skywright.instruments.psss.sources.sim import SimSource
from skywright.processes.http_server import HttpServer

logger = logging.getLogger(__name__)


class Service:
    """The running service, until `close`.

    The REST API is served while another thread compiles the kernels. The recorders belong to the
    IOC, which adds them to the processor: without the IOC no pulses are recorded, only backgrounds.

    Parameters
    ----------
    args
        Arguments of `endpoints.options.add_service_arguments`, with ``prefix``, ``host``, ``seed``
        and ``speed``.

    Attributes
    ----------
    processor
        Owner of the pulses.
    averages
        Averages over the last pulses.
    parameters, history
        Parameters that clients have set; backgrounds that were used.
    background_recorder
        Records backgrounds from the pulses.
    facts
        Facts in the ready line and in /health, such as the ports in use.
    health_parts
        Functions that return further fields of /health.

    Raises
    ------
    ConfigError
        If an argument cannot be used; the message names it.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.prefix = channel_prefix(args.prefix)
        if args.background_dir is not None:
            check_output_directory("--background-dir", args.background_dir)
        source = make_source(args)
        # The simulated spectrometer is calibrated; a real one's axis comes from its PV.
        axis = source.settings.axis_ev if isinstance(source, SimSource) else None
        self.processor = processor = Processor(source, Settings(axis=axis), args.threads)
        processor.warm.clear()
        processor.report(f"{WARMING_UP}: the kernels are being compiled or loaded", alarm=False)
        directory = args.background_dir or default_history(self.prefix)
        self.history = History(directory)
        self.parameters = Parameters(processor, self.history)
        self.background_recorder = BackgroundRecorder(self.parameters)
        self.stream = StreamEndpoint(
            self.prefix,
            processor.statistics,
            args.output_port,
            host=args.output_host or args.host,
            names=args.names,
            image_port=args.image_port,
            kind=args.output_kind,
        )
        self.server: HttpServer | None = None
        self.facts: dict[str, Any] = {
            "source": args.source,
            "output_port": self.stream.port,
            "image_port": self.stream.image_port,
        }
        self.averages = AverageEndpoint()
        continuity = Continuity(directory / "last_pulse", processor.lost_in_owner)
        processor.on_stop = continuity.stopped
        processor.endpoints += [self.stream, self.averages, continuity]
        processor.unsent_counts = self.stream.unsent
        self.health_parts: dict[str, Callable[[], Any]] = {"delay_ms": self.stream.delays}
        self.autosave: Autosave | None = None
        if args.restore:
            self.autosave = Autosave(directory / "settings.json", processor, self.parameters)
        try:
            self.server = HttpServer(rest_app(self), args.host, args.rest_port)
        except BaseException:
            self.close()
            raise
        self.facts["rest_port"] = self.server.port
        threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()

    def _warm_up(self) -> None:
        """Compile the kernels, so that no pulse waits for them."""
        processor = self.processor
        message, alarm = processor.idle_text, False
        try:
            warm_up()
            if isinstance(processor.source, SimSource):
                # Now: a source must open within `PolledSource.start_limit_s`
                processor.source.prepare()
        except Exception as error:  # it may succeed later; if not, each pulse reports it
            logger.exception("psss: kernels are not compiled")
            message, alarm = f"kernels are not compiled: {error}", True
        processor.report(message, alarm)
        processor.warm.set()

    def begin(self, auto_start: bool) -> None:
        """With `auto_start`, start the processing. An error is logged; clients may try again."""
        if not auto_start:
            return
        try:
            self.processor.start()
        except SkywrightError as error:
            logger.error("psss: not started: %s", error)

    def close(self) -> None:
        """Stop, publish the pulses that the owner has received, and free the ports."""
        self.processor.close()
        if self.autosave is not None:
            self.autosave.close()
        # Both wait up to a second for their clients: in parallel, this takes one second
        sending = threading.Thread(target=self.stream.close, name="psss-end")
        sending.start()
        if self.server is not None:
            self.server.close()
        sending.join()


def default_history(prefix: str) -> Path:
    """Return the directory for the backgrounds of a prefix, below the store's directory."""
    from skywright.config import load_settings

    return load_settings().directory / "psss" / prefix / "backgrounds"
