"""The message of an owner for the operator, and what replaces it."""

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic  # tests set this clock forward

logger = logging.getLogger(__name__)

HOLD_S = 10.0
"""Time, s, for which an alarm, or a message of the source, stays although good items follow.
Without it, the message would change and be logged with each item when good and bad items alternate.
An alarm that `report_item` has set is not held: the next good item replaces it."""


class OperatorMessage:
    """The message of an owner for the operator. All methods may be called from any thread.

    Parameters
    ----------
    name
        Name of the hardware, for the log.
    text
        The first message.
    changed
        Called after the message has changed.

    Attributes
    ----------
    text, alarm
        The message, and whether it needs an action.
    is_silence
        True from the report of a silence until the next item, which replaces every message.
    """

    def __init__(self, name: str, text: str, changed: Callable[[], None]) -> None:
        self.text, self.alarm = text, False
        self.is_silence = False
        self._name, self._changed = name, changed
        self._lock = threading.Lock()
        self._held_until = 0.0
        """Time until which messages of good items do not replace the present message."""
        self._waiting = ""
        """Message of the last good item, which waits for `_held_until`; empty: none."""
        self._last_of_item = text, False
        """Text and alarm of the last message of an item; before the first one, of the start."""

    @property
    def present(self) -> tuple[str, bool]:
        """The message, and whether it is an alarm."""
        with self._lock:
            return self.text, self.alarm

    def report(self, text: str, alarm: bool = True) -> None:
        """Set the message. An alarm is held for `HOLD_S`."""
        with self._changing():
            self._set(text, alarm, HOLD_S if alarm else 0.0)

    def report_change(self, text: str) -> None:
        """Set a message that is no alarm, and hold it for `HOLD_S` so that people can read it.

        If an alarm is set, the alarm stays, and this message is only logged.
        """
        with self._changing():
            if self.alarm:
                logger.info("%s: %s", self._name, text)
                return
            self._set(text, False, HOLD_S)

    def report_silence(self, text: str) -> None:
        """Set an alarm that the next item replaces."""
        with self._changing():
            self.is_silence = True
            self._set(text, True, HOLD_S)

    def report_start(self, text: str) -> None:
        """Set the message after a start of the source."""
        with self._changing():
            self.is_silence, self._last_of_item = False, (text, False)
            self._set(text, False, 0.0)

    def report_stop(self, text: str) -> None:
        """Set the message after a stop of the source.

        An alarm stays, so that the operator can read it, unless a good item has followed it.
        """
        with self._changing():
            if self.alarm and not self._waiting:
                return
            self._set(text, False, 0.0)

    def report_item(self, message: tuple[str, bool] | None) -> None:
        """Set the message of a good item, when the present message is no longer held.

        Parameters
        ----------
        message
            Text, and whether it is an alarm; an alarm does not wait. None: the present message
            stays; but after a silence, the last message of an item is set again.
        """
        with self._changing():
            ends_silence, self.is_silence = self.is_silence, False
            if message is None and not ends_silence:
                return
            self._last_of_item = message or self._last_of_item
            text, alarm = self._last_of_item
            if (text, alarm) == (self.text, self.alarm):
                self._waiting = ""
                return
            if not alarm and not ends_silence and monotonic() < self._held_until:
                self._waiting = text
                return
            self._set(text, alarm, 0.0)

    def report_bad_item(self, text: str) -> None:
        """Set an alarm after an item that was refused, or that a client failed to take."""
        with self._changing():
            self.is_silence = False
            self._set(text, True, HOLD_S)

    def show_waiting(self) -> None:
        """Set the message of the last good item if the present one is no longer held."""
        with self._changing():
            if not self._waiting or monotonic() < self._held_until:
                return
            self._set(self._waiting, False, 0.0)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock, then call `changed` if the message has changed: it may need the lock."""
        with self._lock:
            before = self.text, self.alarm
            yield
            has_changed = (self.text, self.alarm) != before
        if has_changed:
            self._changed()

    def _set(self, text: str, alarm: bool, hold_s: float) -> None:
        """Set the message, and log it if it is another one. The caller holds the lock."""
        old, was_alarm = self.text, self.alarm
        self._waiting, self._held_until = "", monotonic() + hold_s
        self.text, self.alarm = text, alarm
        if (text, alarm) == (old, was_alarm):
            return
        # A message with numbers may change with each item
        only_digits_differ = alarm == was_alarm and _without_digits(text) == _without_digits(old)
        level = logging.DEBUG if only_digits_differ else logging.WARNING if alarm else logging.INFO
        logger.log(level, "%s: %s", self._name, text)


def _without_digits(text: str) -> str:
    return re.sub(r"\d+", "", text)
