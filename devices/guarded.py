"""Base class of the devices: timeouts on every wait, one error class with a reason."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from epics.ca import CASeverityException, ChannelAccessException, ChannelAccessGetFailure
from ophyd import Device, EpicsSignal, EpicsSignalRO
from ophyd.areadetector.base import EpicsSignalWithRBV
from ophyd.status import DeviceStatus
from ophyd.utils.errors import DisconnectedError

from skywright.errors import ConfigError, HardwareError, message_of
from skywright.waiting import pause

CONNECT_S = 4.0
PUT_S = 8.0
SET_S = 4.0
"""Longest time until a setting has a value that a plan gives it, s. It and `PUT_S` are shorter than
the 10 s for which an IOC shows why it refused a value (`iocs.owner.ERROR_S`)."""
IOC_LOST = (
    DisconnectedError,
    TimeoutError,
    ChannelAccessException,
    ChannelAccessGetFailure,
    CASeverityException,  # a circuit that breaks while it is read
)
"""Errors that the control layers raise when an IOC is lost."""


def is_ioc_lost(error: BaseException) -> bool:
    """Return whether an error says that an IOC is lost.

    pyepics looks up the type of a PV, which is -1 if its IOC is lost at that moment.
    """
    return isinstance(error, IOC_LOST) or (isinstance(error, KeyError) and error.args == (-1,))


@contextmanager
def ioc_errors(device: Any) -> Iterator[None]:
    """Turn the errors of a lost IOC into a `HardwareError`; others pass as they are.

    `GuardedDevice` turns every error of an access to its PVs into one.
    """
    try:
        yield
    except Exception as error:
        if not is_ioc_lost(error):
            raise
        reason = "" if isinstance(error, KeyError) else f" ({message_of(error)})"
        raise HardwareError(f"{device.name}: lost the IOC of {device.prefix}{reason}") from error


def read_all_elements(signal: EpicsSignalRO) -> Any:
    """Read all elements of a PV from the IOC, also just after its signal has connected.

    On connection ophyd requests one element in time form, and pyepics returns the value of that
    request to a get in the same form. So this asks in native form.
    """
    return signal.get(use_monitor=False, form="native")


class ReasonStatusMixin:
    """On failure `str(status)` is the reason, and the device is not stopped by ophyd.

    The engine puts the reason into the stop document. ophyd would also stop the device, but late
    and from another thread, when the next move may have begun. The code that detects the fault
    stops the device.
    """

    def _handle_failure(self) -> None:
        pass

    def __repr__(self) -> str:
        status: Any = self
        error = status.exception(timeout=0) if status.done else None
        return super().__repr__() if error is None else f"{type(error).__name__}: {error}"

    __str__ = __repr__


class TaskStatus(ReasonStatusMixin, DeviceStatus):
    """Status of a background task."""


def run_ioc_task(device: Any, work: Callable[[], None]) -> TaskStatus:
    """Run `work` on a thread; the status ends with it, and has its exception.

    Errors of the control layers become a `HardwareError`, see `ioc_errors`.
    """
    status = TaskStatus(device)

    def run() -> None:
        try:
            with ioc_errors(device):
                work()
        except Exception as error:  # any error must reach the plan
            status.set_exception(error)
        else:
            status.set_finished()

    threading.Thread(target=run, name=f"{device.name}-{work.__name__}", daemon=True).start()
    return status


class Setting(EpicsSignalWithRBV):
    """A setting of an IOC: `set` ends, with the reason, also when the IOC refuses the value.

    The readback counts: an IOC may complete a put that it refuses. ophyd's own `set` waits without
    end for a readback that does not come, and until then refuses every other value.
    """

    def set(
        self, value: Any, *, timeout: float | None = None, settle_time: float | None = None
    ) -> TaskStatus:
        """Put a value; done when the readback has it.

        Parameters
        ----------
        value
            The value; the name or number of a choice, where there are choices.
        timeout
            The status fails after this time, s; None: `SET_S`.
        settle_time
            Time, s, to wait at the end.

        Returns
        -------
        TaskStatus
            Fails with `HardwareError` when the readback does not get the value in time, with
            `ConfigError` when the value is none of the choices, or text beyond ASCII.
        """
        limit = SET_S if timeout is None else timeout

        def work() -> None:
            self._check(value)
            try:
                self._set_and_wait(value, limit)
            except Exception as error:  # whatever the control layer raises
                reason = getattr(self.root, "_reason", lambda: "check its IOC")()
                failure = _failed_put(self, value, limit, error)
                raise HardwareError(f"{self.root.name}: {failure}; {reason}") from error
            if settle_time:
                pause(settle_time)

        return run_ioc_task(self, work)

    def read(self) -> dict[str, Any]:
        """Read the value.

        Raises
        ------
        HardwareError
            If the IOC is lost.
        """
        with ioc_errors(self.root):
            reading: dict[str, Any] = super().read()
            return reading

    def _check(self, value: Any) -> None:
        if isinstance(value, str) and not value.isascii():
            # Clients and IOCs encode other characters differently.
            raise ConfigError(f"{self.name}: {value!r}, expected ASCII characters")
        choices = self.enum_strs
        if choices and value not in choices and value not in range(len(choices)):
            raise ConfigError(f"{self.name}: {value!r}, expected one of {', '.join(choices)}")


def _failed_put(signal: EpicsSignal, value: Any, limit_s: float, error: Exception) -> str:
    """Return what a put did not do, and how it failed."""
    how = f" within {limit_s:g} s" if isinstance(error, TimeoutError) else f": {message_of(error)}"
    return f"{signal.setpoint_pvname} did not become {value!r}{how}"


class GuardedDevice(Device):
    """A device that turns every error of an access to its PVs into a `HardwareError`.

    A value that a setting cannot have stays a `ConfigError`.
    """

    def connect(self) -> None:
        """Wait until all PVs answer.

        Raises
        ------
        HardwareError
            If they do not within `CONNECT_S`.
        """
        try:
            self.wait_for_connection(timeout=CONNECT_S)
        except Exception as error:  # TimeoutError, or what the control layer has for it
            raise HardwareError(
                f"{self.name}: no answer from {self.prefix} within {CONNECT_S:g} s; is its IOC "
                "running, and does EPICS_CA_ADDR_LIST name it?"
            ) from error

    def read(self) -> dict[str, Any]:
        """Read what an event holds."""
        with self._hardware_errors("cannot be read"):
            return super().read()

    def read_configuration(self) -> dict[str, Any]:
        """Read the configuration."""
        with self._hardware_errors("its configuration cannot be read"):
            return super().read_configuration()

    def describe(self) -> dict[str, Any]:
        """Describe what an event holds."""
        with self._hardware_errors("cannot be described"):
            return super().describe()

    def describe_configuration(self) -> dict[str, Any]:
        """Describe the configuration."""
        with self._hardware_errors("its configuration cannot be described"):
            return super().describe_configuration()

    def _message_signals(self) -> tuple[EpicsSignalRO, ...]:
        """Return the signals of the IOC's error messages; for subclasses."""
        return ()

    def _reason(self) -> str:
        """Return the IOC's error messages, or advice."""
        try:
            messages = [signal.get(timeout=0.5) for signal in self._message_signals()]
        except Exception:  # each control layer has its own
            return "and its IOC does not answer"
        if not messages:
            return f"check the IOC at {self.prefix}"
        return "the IOC says: " + ("; ".join(filter(None, messages)) or "nothing")

    def in_background(self, work: Callable[[], None]) -> DeviceStatus:
        """Run `work` on a thread; its status has the exception of `work`."""
        return run_ioc_task(self, work)

    def _put(self, signal: EpicsSignal, value: Any) -> None:
        """Put, and wait for put completion, or for the readback if `put_complete` is not set."""
        try:
            signal.set(value, timeout=PUT_S).wait(timeout=PUT_S + 0.5)
        except (HardwareError, ConfigError):
            raise
        except Exception as error:
            failure = _failed_put(signal, value, PUT_S, error)
            raise HardwareError(f"{self.name}: {failure}; {self._reason()}") from error

    def _read_signal(self, signal: EpicsSignalRO) -> Any:
        """Return the value; for a monitored signal, that of its last monitor."""
        with self._hardware_errors(f"{signal.pvname} cannot be read"):
            return signal.get()

    def _read_now(self, signal: EpicsSignalRO) -> Any:
        """Ask the IOC for the value, also of a monitored signal."""
        with self._hardware_errors(f"{signal.pvname} cannot be read"):
            return read_all_elements(signal)

    @contextmanager
    def _hardware_errors(self, what: str) -> Iterator[None]:
        """Turn every error of an access to PVs into a `HardwareError` that says what failed."""
        try:
            yield
        except HardwareError:
            raise
        except Exception as error:
            raise HardwareError(f"{self.name}: {what}; {self._reason()}") from error
