"""A ZED-F9T on a serial port: ask, configure, verify, read."""

import logging
import queue
import stat
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyubx2 import ERR_IGNORE, POLL, UBX_PROTOCOL, UBXMessage, UBXReader, cfgname2key
from serial import Serial, SerialException

from skywright.errors import ConfigError, HardwareError
from skywright.instruments.panoseti.ublox.config import LAYER_NUMBERS

logger = logging.getLogger(__name__)

ANSWER_S = 2.0
"""Longest time until the receiver answers."""
KEYS_AT_ONCE = 64
"""Registers in one CFG-VALSET or CFG-VALGET, a limit of the protocol."""
VALSET = (0x06, 0x8A)
MODEL_PREFIX = "ZED-F9T"

Message = tuple[str, Any, bytes]
"""Name, parsed message and all of its bytes."""


def check_device(device: str) -> None:
    """Check that there is a character device.

    Raises
    ------
    ConfigError
        If there is none.
    """
    try:
        mode = Path(device).stat().st_mode
    except (OSError, ValueError) as error:
        raise ConfigError(f"device {device}: {error}") from error
    if not stat.S_ISCHR(mode):
        raise ConfigError(f"device {device} is no character device")


class Receiver:
    """An open receiver; its messages are read by a thread of its own.

    Parameters
    ----------
    device
        Character device.
    baud
        Of the port.

    Raises
    ------
    ConfigError
        If `device` does not exist or is no character device.
    HardwareError
        If it cannot be opened.
    """

    def __init__(self, device: str, baud: int) -> None:
        check_device(device)
        try:
            self._port = Serial(device, baudrate=baud, timeout=0.2, exclusive=True)
        except (SerialException, OSError, ValueError) as error:
            raise HardwareError(f"device {device} cannot be opened: {error}") from error
        self.device = device
        self._answers: queue.Queue[Message] = queue.Queue(10_000)
        self._listener: Callable[[Message], object] | None = None
        self._on_failure: Callable[[str], object] | None = None
        self._closing = threading.Event()
        self.failed: str = ""
        self._thread = threading.Thread(target=self._read, name="ubx", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reading and close the port."""
        self._closing.set()
        self._thread.join(2.0)
        self._port.close()

    def listen(
        self, listener: Callable[[Message], object], on_failure: Callable[[str], object]
    ) -> None:
        """Call `listener`, from the reading thread, with every further message.

        If the device cannot be read any more, `on_failure` is called with the reason; it may be
        called twice.
        """
        self._on_failure = on_failure
        self._listener = listener
        if self.failed:  # perhaps before the thread knew whom to tell
            on_failure(self.failed)

    def model(self) -> str:
        """Return the model, from MON-VER.

        Raises
        ------
        HardwareError
            If it does not answer.
        """
        _, parsed, _ = self._ask(UBXMessage("MON", "MON-VER", POLL), "MON-VER")
        for name, value in vars(parsed).items():
            text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
            if name.startswith("extension") and text.startswith("MOD="):
                return text.removeprefix("MOD=").rstrip("\0 ")
        return ""

    def unique_id(self) -> str:
        """Return the chip's number, 10 hexadecimal digits, from SEC-UNIQID.

        Raises
        ------
        HardwareError
            If it does not answer.
        """
        _, _, raw = self._ask(UBXMessage("SEC", "SEC-UNIQID", POLL), "SEC-UNIQID")
        return raw[10:15].hex().upper()

    def set_registers(self, registers: Mapping[str, float | bytes], layer_mask: int) -> None:
        """Set registers.

        Raises
        ------
        HardwareError
            If the receiver refuses a group of them, or does not answer.
        """
        items = list(registers.items())
        for first in range(0, len(items), KEYS_AT_ONCE):
            group = items[first : first + KEYS_AT_ONCE]
            message = UBXMessage.config_set(layer_mask, 0, group)
            name, _, _ = self._ask(message, "ACK-ACK", "ACK-NAK", acknowledged=VALSET)
            if name == "ACK-NAK":
                keys = ", ".join(key for key, _ in group)
                raise HardwareError(f"the receiver refused one of these registers: {keys}")

    def get_registers(self, names: list[str], layer: str) -> dict[str, Any]:
        """Return the values of registers in a layer; those that the receiver lacks are missing.

        Raises
        ------
        HardwareError
            If it does not answer.
        """
        found: dict[str, Any] = {}
        for first in range(0, len(names), KEYS_AT_ONCE):
            group = names[first : first + KEYS_AT_ONCE]
            keys = [cfgname2key(name)[0] for name in group]
            message = UBXMessage.config_poll(LAYER_NUMBERS[layer], 0, keys)
            name, parsed, _ = self._ask(message, "CFG-VALGET", "ACK-NAK")
            if name == "CFG-VALGET":
                found |= {key: getattr(parsed, key) for key in group if hasattr(parsed, key)}
        return found

    def _ask(
        self, message: UBXMessage, *names: str, acknowledged: tuple[int, int] | None = None
    ) -> Message:
        while not self._answers.empty():
            self._answers.get_nowait()
        try:
            self._port.write(message.serialize())
        except (SerialException, OSError) as error:
            raise HardwareError(f"{self.device}: {error}") from error
        deadline = time.monotonic() + ANSWER_S
        while (left := deadline - time.monotonic()) > 0:
            try:
                answer = self._answers.get(timeout=left)
            except queue.Empty:
                break
            name, _, raw = answer
            if name not in names:
                continue
            if acknowledged is None or tuple(raw[6:8]) == acknowledged:
                return answer
        raise HardwareError(f"{self.device}: no {' or '.join(names)} within {ANSWER_S:g} s")

    def _read(self) -> None:
        reader = UBXReader(self._port, protfilter=UBX_PROTOCOL, quitonerror=ERR_IGNORE)
        while not self._closing.is_set():
            try:
                raw, parsed = reader.read()
            except (SerialException, OSError, TypeError) as error:
                if not self._closing.is_set():
                    self.failed = f"{self.device}: {error}"
                    logger.error("%s", self.failed)
                    if self._on_failure is not None:
                        self._on_failure(self.failed)
                return
            except Exception as error:  # a damaged message: the next one may be good
                logger.warning("%s: %s", self.device, error)
                continue
            if raw is None or parsed is None:
                continue
            message = (str(parsed.identity), parsed, bytes(raw))
            if self._answers.full():
                self._answers.get_nowait()
            self._answers.put_nowait(message)
            if self._listener is not None:
                self._listener(message)


def fields_of(parsed: Any) -> dict[str, Any]:
    """Return the fields of a parsed message as JSON values; bytes become text or hexadecimal."""
    found: dict[str, Any] = {}
    for name, value in vars(parsed).items():
        if name.startswith("_"):
            continue
        if isinstance(value, bytes):
            text = value.rstrip(b"\0")
            printable = text.isascii() and text.decode("ascii").isprintable()
            value = text.decode("ascii") if printable else value.hex()
        found[name] = value if isinstance(value, int | float | str | bool) else str(value)
    return found
