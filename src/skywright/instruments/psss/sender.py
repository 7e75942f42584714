"""A camera that speaks bsread: ``python -m skywright.instruments.psss.sender --port 9999``.

It sends the pictures of the simulated instrument. On stdout it writes JSON lines: its port at the
start, and the numbers of sent and dropped messages at the end. ``--truth`` writes the true values
of each pulse to a file.
"""

import argparse
import contextlib
import json
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from skywright.errors import ConfigError
from skywright.instruments.psss.pulse import PREFIX, Pulse
from skywright.instruments.psss.sources.sim import PULSE_RATE_HZ, SimSource
from skywright.instruments.psss.twin import InstrumentSettings, Truth
from skywright.instruments.psss.twin.settings import parse_size
from skywright.processes.lifecycle import announce_ready, call_on_end_signal, end_with_parent
from skywright.processes.logs import log_to_stderr
from skywright.processes.ports import port_number
from skywright.wire.bsread import Decoder, Encoder, RawChannel
from skywright.wire.bsread_channel import encode_timestamp
from skywright.wire.bsread_compression import COMPRESSIONS, Compression
from skywright.wire.bsread_sockets import QUEUE_BYTES, Sender, tcp_address

SET_HELP = (
    "any setting of skywright.instruments.psss.twin.InstrumentSettings, such as bandwidth_ev=20"
)

SLICE_S = 0.2
"""Longest time, s, for which a wait delays a stop."""


class TruthTable:
    """The true values of each pulse, and whether it was sent, in the order of the pulses.

    Parameters
    ----------
    spectra
        True: keep the true spectra too, 20 kB for a pulse of 2560 columns.
    """

    SCALARS = tuple(
        field.name for field in fields(Truth) if field.name not in ("pulse_id", "spectrum")
    )

    def __init__(self, *, spectra: bool = False) -> None:
        self._spectra = spectra
        self._rows: list[tuple[Any, ...]] = []
        self._lines: list[Any] = []

    def add(self, pulse: Pulse, *, sent: bool) -> None:
        """Add a pulse of the simulated instrument."""
        scalars = (getattr(pulse.truth, name) for name in self.SCALARS)
        self._rows.append((pulse.pulse_id, pulse.time_ns, sent, *scalars))
        if self._spectra:
            self._lines.append(pulse.truth.spectrum)

    def write(self, path: Path) -> None:
        """Write an npz file with an array for each quantity; ``spectrum`` is (pulses, columns)."""
        names = ("pulse_id", "time_ns", "sent", *self.SCALARS)
        columns = dict(zip(names, map(np.array, zip(*self._rows, strict=True)), strict=False))
        if self._spectra:
            columns["spectrum"] = np.array(self._lines)
        np.savez(path, **columns)  # type: ignore[arg-type]  # names are ours


def send_pulses(
    source: SimSource,
    sender: Sender,
    channel: str,
    *,
    compression: Compression = "none",
    header_compression: Compression = "none",
    pulses: int = 0,
    truth: TruthTable | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Send the pulses of a source until there are enough or `stop` is set.

    Parameters
    ----------
    source
        Source, which is opened, and halted at the end. With rate 0 the sender waits for the
        readers, and no pulse is dropped. Otherwise it does not wait.
    sender
        Sender of the messages.
    channel
        Name of the picture's channel.
    compression, header_compression
        Compressions of pictures and data header.
    pulses
        Number of pulses to take from the source, also those that are dropped; 0: without end.
    truth
        Table that gets the true values of each pulse; None: none.
    stop
        Event that ends the sending when it is set.

    Returns
    -------
    ``{"pulses", "sent", "drops", "lost", "first_pulse_id", "last_pulse_id"}``.
    """
    stop = stop or threading.Event()
    frames_of = _framing(source, channel, Encoder(compression, header_compression))
    wait_s = 0.0 if source.rate_hz else SLICE_S
    ids: list[int] = []
    count = 0
    source.open()
    while not stop.is_set() and (count < pulses or not pulses):
        pulse = source.next(SLICE_S)
        if pulse is None:
            continue
        frames = frames_of(pulse)
        sent = sender.send(frames, wait_s)
        while not sent and wait_s and not stop.is_set():
            sent = sender.send(frames, wait_s)
        if truth is not None:
            truth.add(pulse, sent=sent)
        ids = [*ids[:1], pulse.pulse_id]
        count += 1
    source.halt()
    return {
        "pulses": count,
        "sent": sender.sent,
        "drops": sender.drops if source.rate_hz else {},  # those were tried again
        "lost": dict(source.lost),
        "first_pulse_id": ids[0] if ids else None,
        "last_pulse_id": ids[-1] if ids else None,
    }


def _framing(source: SimSource, channel: str, encoder: Encoder) -> Callable[[Pulse], list[Any]]:
    """Return a function that encodes a pulse; each picture of a reel is compressed once only."""
    packed: dict[int, RawChannel] = {}

    def frames_of(pulse: Pulse) -> list[Any]:
        raw = packed.get(id(pulse.image))
        if raw is None:
            frames = encoder.encode(pulse.pulse_id, pulse.time_ns, {channel: pulse.image})
            if source.reel:
                packed[id(pulse.image)] = Decoder().decode(frames).raw(channel)
            return frames
        stamp = encode_timestamp(pulse.time_ns or 0, big_endian=False)
        again = replace(raw, timestamp=stamp)
        return encoder.encode(pulse.pulse_id, pulse.time_ns, {channel: again})

    return frames_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 if an argument cannot be used."""
    args = _parser().parse_args(arguments)
    log_to_stderr(args.verbose)
    try:
        source = _source(args)
        address = tcp_address(args.host, args.port)
        sender = Sender(address, args.kind, queue_bytes=args.queue_bytes)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    stop = threading.Event()
    call_on_end_signal(stop.set)
    end_with_parent()
    channel = f"{args.prefix.rstrip(':')}:FPICTURE"
    announce_ready(port=sender.port, channel=channel, rows=source.settings.rows)
    deadline = args.wait_for_reader
    while deadline > 0.0 and not stop.is_set() and not sender.wait_for_reader(SLICE_S):
        deadline -= SLICE_S
    truth = TruthTable(spectra=args.spectra) if args.truth else None
    summary = send_pulses(
        source,
        sender,
        channel,
        compression=args.compression,
        header_compression=args.header_compression,
        pulses=args.pulses,
        truth=truth,
        stop=stop,
    )
    if truth is not None:
        truth.write(args.truth)
    sender.close()
    with contextlib.suppress(BrokenPipeError):  # who started us is gone
        sys.stdout.write(json.dumps({"ended": summary}) + "\n")
        sys.stdout.flush()
    return 0


def _source(args: argparse.Namespace) -> SimSource:
    """Return the source, with its pool of noise and its reel rendered."""
    columns, rows = parse_size(args.size)
    settings = InstrumentSettings(
        kind=args.spectrum, columns=columns, rows=rows, pool_bytes=args.pool_bytes
    )
    settings = replace(settings, **_numbers(args.set))
    source = SimSource(
        settings,
        rate_hz=args.rate,
        speed=args.speed,
        seed=args.seed,
        first_pulse_id=args.first_pulse_id,
        reel=args.reel,
    )
    source.beam = not args.dark
    source.prepare()
    return source


def _numbers(texts: Sequence[str]) -> dict[str, Any]:
    """Return settings of the instrument from ``NAME=NUMBER``."""
    names = {field.name for field in fields(InstrumentSettings)} - {"kind"}
    numbers: dict[str, Any] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in names:
            raise ConfigError(f"--set {text}: no setting {name!r}; there are {sorted(names)}")
        try:
            numbers[name] = int(number) if number.lstrip("-").isdigit() else float(number)
        except ValueError:
            raise ConfigError(f"--set {text}: expected {name}=NUMBER") from None
    return numbers


def _parser() -> argparse.ArgumentParser:
    known = InstrumentSettings()
    parser = argparse.ArgumentParser(
        prog="python -m skywright.instruments.psss.sender", description=__doc__
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on; * for all")
    add("--port", type=port_number, default=9999, help="0 takes a free one")
    add("--kind", choices=("push", "pub"), default="push")
    add("--prefix", default=PREFIX, help="the channel is PREFIX:FPICTURE")
    add("--rate", type=float, default=PULSE_RATE_HZ, help="Hz; 0 as fast as it is read")
    add(
        "--speed", type=float, default=1.0, help="factor on the rate; the clock stays the machine's"
    )
    add("--size", default=f"{known.columns}x{known.rows}", help="WIDTHxHEIGHT")
    add("--pulses", type=int, default=0, help="number of pulses to send; 0: without end")
    add("--compression", choices=COMPRESSIONS, default="none")
    add("--header-compression", choices=COMPRESSIONS, default="none")
    add("--queue-bytes", type=int, default=QUEUE_BYTES, help="most that waits for the reader")
    add("--wait-for-reader", type=float, default=0.0, help="s; longest wait before the first pulse")
    add("--seed", type=int, default=0)
    add("--first-pulse-id", type=int, help="default: by the clock, so that ids always grow")
    add("--spectrum", choices=("sase", "gaussian"), default=known.kind)
    add("--set", action="append", default=[], metavar="NAME=NUMBER", help=SET_HELP)
    add("--dark", action="store_true", help="no light, for a background")
    add(
        "--pool-bytes",
        type=int,
        default=known.pool_bytes,
        help="of noisy frames; 0: all noise anew",
    )
    reel = "number of pictures to render before the start and to repeat; 0: render each"
    add("--reel", type=int, default=0, help=reel)
    add("--truth", type=Path, help="npz file to write at the end")
    add("--spectra", action="store_true", help="true spectra in that file too")
    add("-v", "--verbose", action="count", default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
