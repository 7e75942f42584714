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
from skywright.wire.bsread import Decoder
from skywright.wire.bsread_channel import encode_timestamp
from skywright.wire.bsread_compression import COMPRESSIONS, Compression
from skywright.wire.bsread_encoder import Encoder, RawChannel
from skywright.wire.bsread_sockets import QUEUE_BYTES, Sender, tcp_address

SLICE_S = 0.2
"""Longest time, s, for which a wait delays a stop."""


TRUTH = tuple(field.name for field in fields(Truth) if field.name not in ("pulse_id", "spectrum"))
"""The true values that are written."""


def send_pulses(
    source: SimSource,
    sender: Sender,
    channel: str,
    *,
    compression: Compression = "none",
    header_compression: Compression = "none",
    pulses: int = 0,
    truth: list[dict[str, Any]] | None = None,
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
        List that gets the true values of each pulse, and whether it was sent; None: none.
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
            scalars = {name: getattr(pulse.truth, name) for name in TRUTH}
            times = {"pulse_id": pulse.pulse_id, "time_ns": pulse.time_ns, "sent": sent}
            truth.append(times | scalars)
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
    log_to_stderr()
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
    truth: list[dict[str, Any]] = []
    summary = send_pulses(
        source,
        sender,
        channel,
        compression=args.compression,
        header_compression=args.header_compression,
        pulses=args.pulses,
        truth=truth if args.truth else None,
        stop=stop,
    )
    if args.truth:
        names = truth[0] if truth else ()
        columns: dict[str, Any] = {name: np.array([row[name] for row in truth]) for name in names}
        np.savez(args.truth, **columns)
    sender.close()
    with contextlib.suppress(BrokenPipeError):  # who started us is gone
        sys.stdout.write(json.dumps({"ended": summary}) + "\n")
        sys.stdout.flush()
    return 0


def _source(args: argparse.Namespace) -> SimSource:
    """Return the source, with its pool of noise and its reel rendered."""
    columns, rows = parse_size(args.size)
    source = SimSource(
        InstrumentSettings(columns=columns, rows=rows, pool_bytes=args.pool_bytes),
        rate_hz=args.rate,
        seed=args.seed,
        first_pulse_id=args.first_pulse_id,
        reel=args.reel,
    )
    source.prepare()
    return source


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
    add("--size", default=f"{known.columns}x{known.rows}", help="WIDTHxHEIGHT")
    add("--pulses", type=int, default=0, help="number of pulses to send; 0: without end")
    add("--compression", choices=COMPRESSIONS, default="none")
    add("--header-compression", choices=COMPRESSIONS, default="none")
    add("--queue-bytes", type=int, default=QUEUE_BYTES, help="most that waits for the reader")
    add("--wait-for-reader", type=float, default=0.0, help="s; longest wait before the first pulse")
    add("--seed", type=int, default=0)
    add("--first-pulse-id", type=int, help="default: by the clock, so that ids always grow")
    pool = "of noisy frames; 0: all noise anew"
    add("--pool-bytes", type=int, default=known.pool_bytes, help=pool)
    reel = "number of pictures to render before the start and to repeat; 0: render each"
    add("--reel", type=int, default=0, help=reel)
    add("--truth", type=Path, help="npz file to write at the end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
