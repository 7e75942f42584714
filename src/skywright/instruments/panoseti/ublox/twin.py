"""A simulated ZED-F9T on a pseudo terminal: it answers, keeps its registers, and ticks."""

import math
import os
import select
import struct
import threading
import time
import tty
from collections.abc import Collection
from datetime import UTC, datetime

import numpy as np
from pyubx2 import UBX_CONFIG_DATABASE, cfgname2key

from skywright.acquire.pacing import Pacer

SYNC = b"\xb5\x62"
MON_VER, SEC_UNIQID, VALSET, VALGET = b"\x0a\x04", b"\x27\x03", b"\x06\x8a", b"\x06\x8b"
ACK, NAK = b"\x05\x01", b"\x05\x00"
TIM_TP, NAV_TIMEUTC = b"\x0d\x01", b"\x01\x21"
GPS_EPOCH = datetime(1980, 1, 6, tzinfo=UTC).timestamp()
LEAP_S = 18
"""GPS time minus UTC."""
WEEK_S = 7 * 86400
QERR_PS = 4000
"""Largest quantization error: half a period of the receiver's clock of 125 MHz."""
POLL_S = 0.1
"""Longest time that a thread does not see that it shall end."""
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8}
"""Bytes of a register, by bits 28 to 30 of its key."""
ENABLING = {TIM_TP: "CFG_MSGOUT_UBX_TIM_TP_", NAV_TIMEUTC: "CFG_MSGOUT_UBX_NAV_TIMEUTC_"}
KNOWN = {key for key, _ in UBX_CONFIG_DATABASE.values()}


def frame(kind: bytes, payload: bytes) -> bytes:
    """Return a UBX message: class and id, length, payload, 8-bit Fletcher sum."""
    body = kind + struct.pack("<H", len(payload)) + payload
    a = b = 0
    for byte in body:
        a = (a + byte) & 255
        b = (b + a) & 255
    return SYNC + body + bytes((a, b))


def register_bytes(key: int) -> int:
    """Return the size of a register's value."""
    return SIZES[(key >> 28) & 7]


class SimulatedF9t:
    """A receiver behind a pseudo terminal.

    Parameters
    ----------
    uid
        Number of the chip, 10 hexadecimal digits.
    model
        What it calls itself.
    refused
        Names of registers that it refuses.
    forgotten
        Names of registers that keep their value when they are set.
    period_s
        Time between two pulses; the first is at the next whole second.
    seed
        Of the quantization errors.

    Attributes
    ----------
    device
        Path of the terminal.
    pulses
        Truth: for each pulse its time of week, ms, and how late it was, ps. The TIM-TP before a
        pulse has this number as its qErr.
    silent
        While true, it sends nothing by itself.
    """

    def __init__(
        self,
        uid: str = "DF03A241BC",
        model: str = "ZED-F9T",
        refused: Collection[str] = (),
        forgotten: Collection[str] = (),
        period_s: float = 1.0,
        seed: int = 0,
    ) -> None:
        self._uid, self._model = bytes.fromhex(uid), model
        self._refused = {cfgname2key(name)[0] for name in refused}
        self._forgotten = {cfgname2key(name)[0] for name in forgotten}
        self._registers: dict[int, dict[int, bytes]] = {0: {}, 1: {}, 2: {}}
        self._rng = np.random.default_rng(seed)
        self.pulses: list[tuple[int, int]] = []
        self.silent = False
        self._master, slave = os.openpty()
        tty.setraw(slave)
        self.device = os.ttyname(slave)
        self._slave = slave
        self._stop = threading.Event()
        self._second = math.floor(time.time()) + 1
        """Unix time of the next pulse. With another period than 1 s it is not that of the clock."""
        self._pace = Pacer(period_s)
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._answer, self._tick)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End it; the terminal goes."""
        self._stop.set()
        self._pace.end()
        os.close(self._slave)
        self._threads[1].join(2.0)
        os.close(self._master)

    def _send(self, kind: bytes, payload: bytes) -> None:
        with self._lock:
            try:
                os.write(self._master, frame(kind, payload))
            except OSError:
                self._stop.set()

    def _answer(self) -> None:
        pending = b""
        while not self._stop.is_set():
            # A read that blocks would keep the terminal open after `close`.
            if not select.select([self._master], [], [], POLL_S)[0]:
                continue
            try:
                pending += os.read(self._master, 4096)
            except OSError:
                return
            while (start := pending.find(SYNC)) >= 0 and len(pending) >= start + 8:
                length = struct.unpack_from("<H", pending, start + 4)[0]
                end = start + 8 + length
                if len(pending) < end:
                    break
                message, pending = pending[start:end], pending[end:]
                if frame(message[2:4], message[6:-2]) == message:
                    self._take(message[2:4], message[6:-2])

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == MON_VER:
            extensions = ("ROM BASE 0x118B2060", "FWVER=TIM 2.20", f"MOD={self._model}")
            lines = b"".join(text.encode().ljust(30, b"\0") for text in extensions)
            version = b"EXT CORE 1.00".ljust(30, b"\0") + b"00190000".ljust(10, b"\0")
            self._send(MON_VER, version + lines)
        elif kind == SEC_UNIQID:
            self._send(SEC_UNIQID, b"\x01\0\0\0" + self._uid)
        elif kind == VALSET:
            self._send(ACK if self._set(payload) else NAK, kind)
        elif kind == VALGET:
            self._get(payload)

    def _set(self, payload: bytes) -> bool:
        layers, at, values = payload[1], 4, {}
        while at + 4 <= len(payload):
            key = struct.unpack_from("<I", payload, at)[0]
            size = register_bytes(key)
            if key not in KNOWN or key in self._refused or at + 4 + size > len(payload):
                return False
            values[key] = payload[at + 4 : at + 4 + size]
            at += 4 + size
        for layer in range(3):
            if layers >> layer & 1:
                kept = {key: value for key, value in values.items() if key not in self._forgotten}
                self._registers[layer] |= kept
        return True

    def _get(self, payload: bytes) -> None:
        layer = payload[1]
        registers = self._registers.get(layer, {})
        out = b""
        for (key,) in struct.iter_unpack("<I", payload[4:]):
            out += struct.pack("<I", key) + registers.get(key, bytes(register_bytes(key)))
        self._send(VALGET, b"\x01" + bytes((layer,)) + b"\0\0" + out)

    def _enabled(self, kind: bytes) -> bool:
        prefix = ENABLING[kind]
        keys = (cfgname2key(prefix + port)[0] for port in ("USB", "UART1"))
        return any(any(self._registers[0].get(key, b"\0")) for key in keys)

    def _tick(self) -> None:
        self._pace.pause(self._second - time.time())
        while not self._stop.is_set():
            skipped = self._pace.wait(POLL_S)
            if skipped is not None:
                self._second += skipped + 1
                if not self.silent:
                    self._report(self._second - 1)

    def _report(self, second: int) -> None:
        """Send what a receiver sends just after a pulse, at `second` of unix time.

        NAV-TIMEUTC is of this pulse, TIM-TP of the next one.
        """
        if self._enabled(NAV_TIMEUTC):
            utc = datetime.fromtimestamp(second, UTC)
            self._send(
                NAV_TIMEUTC,
                struct.pack(
                    "<IIiHBBBBBB", _gps_time(second)[1], 62, 0, utc.year, utc.month, utc.day,
                    utc.hour, utc.minute, utc.second, 0x37,
                ),
            )  # fmt: skip
        week, tow_ms = _gps_time(second + 1)
        late_ps = int(self._rng.integers(-QERR_PS, QERR_PS + 1))
        self.pulses.append((tow_ms, late_ps))
        if self._enabled(TIM_TP):
            self._send(TIM_TP, struct.pack("<IIiHBB", tow_ms, 0, late_ps, week, 0, 0))


def _gps_time(second: int) -> tuple[int, int]:
    """Return GPS week and time of week, ms, of a second of unix time."""
    week, tow_s = divmod(round(second + LEAP_S - GPS_EPOCH), WEEK_S)
    return week, 1000 * tow_s
