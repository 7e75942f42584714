"""The output stream of the PSSS service: the received pictures and their results."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import orjson

from skywright.instruments.psss.results import IMAGE_CAUSE, Result
from skywright.instruments.psss.service_statistics import ServiceStatistics
from skywright.wire.bsread_encoder import ChannelValue, Encoder, RawChannel
from skywright.wire.bsread_sockets import QUEUE_BYTES, Sender, tcp_address

Names = Literal["readme", "1.8", "both"]
NAMES: tuple[Names, ...] = ("readme", "1.8", "both")
PICTURE = "FPICTURE"
DELAYS_KEPT = 1000


class StreamEndpoint:
    """Sends each result, with id and time of its pulse, as one bsread message.

    It never waits for a reader. If a reader is too slow, a whole message is dropped and counted.
    With ``pub`` and several readers, only the first of a series that a slow reader misses is
    counted.

    Parameters
    ----------
    prefix
        Prefix of the channels, without colon.
    statistics
        Counts the results that were sent.
    port
        Port of the results; 0: a free one.
    host
        Interface to bind.
    names
        ``readme``: ``PREFIX:FPICTURE.spectrum``, ``.center``, ``.fwhm``,
        ``.processing_parameters``. ``1.8``: ``PREFIX:SPECTRUM_Y``, ``PREFIX:SPECTRUM_X``,
        ``PREFIX:SPECTRUM_CENTER``, ``PREFIX:SPECTRUM_FWHM``, ``PREFIX:processing_parameters``.
        ``both``: all of these.
    image_port
        Port of a separate stream of the pictures; None: they are sent with the results.
    kind
        ``push``: each message goes to one of the readers. ``pub``: each goes to all readers.
    queue_bytes
        Limit, bytes, of the messages that wait to be sent, for each of the two streams: with
        ``push`` of all readers together, with ``pub`` of one reader (see `Sender`).

    Attributes
    ----------
    port, image_port
        Ports in use.

    Raises
    ------
    ConfigError
        If a port cannot be bound.
    """

    def __init__(
        self,
        prefix: str,
        statistics: ServiceStatistics,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        names: Names = "readme",
        image_port: int | None = None,
        kind: Literal["push", "pub"] = "push",
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._prefix = prefix
        self._names = names
        self._statistics = statistics
        self._missing: dict[str, ChannelValue | RawChannel] = {}
        self._delays_ms: deque[float] = deque(maxlen=DELAYS_KEPT)
        self._sender = Sender(tcp_address(host, port), kind, queue_bytes=queue_bytes)
        self._encoder = Encoder()
        self._images: Sender | None = None
        self._image_encoder = Encoder()
        if image_port is not None:
            try:
                address = tcp_address(host, image_port)
                self._images = Sender(address, kind, queue_bytes=queue_bytes)
            except BaseException:
                self._sender.close()
                raise

    @property
    def port(self) -> int:
        """Port of the results."""
        return self._sender.port

    @property
    def image_port(self) -> int | None:
        """Port of the separate stream of the pictures; None if they are sent with the results."""
        return self._images.port if self._images else None

    def offer(self, result: Result) -> None:
        """Send a result."""
        pulse, picture, results = result.pulse, self._picture(result), self._results(result)
        channels = picture | results if self._images is None else results
        frames = self._encoder.encode(pulse.pulse_id, result.time_ns, channels)
        if self._sender.send(frames):
            self._statistics.sent(pulse.pulse_id)
            self._delays_ms.append((time.monotonic() - result.begun_s) * 1e3)
        if self._images is not None:
            frames = self._image_encoder.encode(pulse.pulse_id, result.time_ns, picture)
            self._images.send(frames)

    def unsent(self) -> Mapping[str, int]:
        """Return the numbers of messages that were not sent, by cause."""
        images = {} if self._images is None else self._images.drops
        return self._sender.drops | {
            f"{IMAGE_CAUSE}{cause}": count for cause, count in images.items()
        }

    def delays(self) -> dict[str, float]:
        """Return the time from the start of a pulse's processing until its result is sent, ms.

        It does not include the wait for a thread before the processing.

        Returns
        -------
        dict
            ``median`` and ``p99`` of the last `DELAYS_KEPT` pulses; empty before the first one.
        """
        recent = list(self._delays_ms)
        if not recent:
            return {}
        median, p99 = np.quantile(recent, (0.5, 0.99))
        return {"median": round(float(median), 3), "p99": round(float(p99), 3)}

    def close(self) -> None:
        """Send the waiting messages, within a short time, and free the ports."""
        self._sender.close()
        if self._images is not None:
            self._images.close()

    def _picture(self, result: Result) -> dict[str, Any]:
        """Return the picture's channel, with the bytes that were received if there are any.

        A picture that could not be decoded is sent as a missing value: a reader might fail on it.
        """
        name, pulse = f"{self._prefix}:{PICTURE}", result.pulse
        message = pulse.message if pulse.image is not None else None
        if message is not None and name in message.channels:
            raw = message.raw(name)
            self._missing[name] = replace(raw, value=b"", timestamp=b"")
            return {name: raw}
        return {name: self._value(name, pulse.image)}

    def _results(self, result: Result) -> dict[str, Any]:
        found, made_with = result.spectrum, made_with_json(result)
        named: dict[str, Any] = {}
        if self._names in ("readme", "both"):
            stem = f"{self._prefix}:{PICTURE}."
            named |= {
                stem + "spectrum": found.spectrum,
                stem + "center": found.center,
                stem + "fwhm": found.fwhm,
                stem + "processing_parameters": made_with,
            }
        if self._names in ("1.8", "both"):
            stem = f"{self._prefix}:"
            named |= {
                stem + "SPECTRUM_Y": found.spectrum,
                stem + "SPECTRUM_X": found.axis,
                stem + "SPECTRUM_CENTER": found.center,
                stem + "SPECTRUM_FWHM": found.fwhm,
                stem + "processing_parameters": made_with,
            }
        return {name: self._value(name, value) for name, value in named.items()}

    def _value(self, name: str, value: Any) -> Any:
        """Return a value to send; a missing array is declared like the last array."""
        if isinstance(value, float | str):
            return value
        if value is None or not value.size:
            return self._missing.get(name, ChannelValue(None))
        self._missing[name] = ChannelValue(None, value.dtype.name, value.shape)
        return value


def made_with_json(result: Result) -> str:
    """Return the text of ``processing_parameters``: settings and status of a result, as JSON.

    ``roi`` and ``background`` are what was applied. ``roi`` is [0, 0] if the whole picture was
    summed. ``background`` is the name of the background that was subtracted; empty: none.
    """
    found, settings = result.spectrum, result.settings
    roi = settings.roi if settings.roi == found.roi else (0, 0)
    return orjson.dumps(
        {
            "roi": roi,
            "background": found.background_name,
            "background_mode": settings.background_mode,
            "smoothing": settings.smoothing,
            "fit": settings.fit,
            "settings": result.settings_number,
            "status": found.status.name,
            "unit": found.unit.name,
        }
    ).decode()
