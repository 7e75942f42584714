"""The owner of the spectrometer's pulses, and the settings of their processing.

With one thread, the source's thread processes each pulse; with more, threads of the owner process
pulses in parallel, and the results are published in order. Endpoints run on the thread that
publishes, before the next result; none of them waits for its clients.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from skywright.acquire.counters import Counters
from skywright.acquire.owner import Owner
from skywright.acquire.source import Source
from skywright.errors import HardwareError
from skywright.instruments.psss.processing import Settings, process
from skywright.instruments.psss.pulse import Pulse
from skywright.instruments.psss.results import ProcessorState, Result, picture_of, remark
from skywright.instruments.psss.service_statistics import ServiceStatistics

logger = logging.getLogger(__name__)

WARMING_UP = "warming up"
WARM_LIMIT_S = 60.0
"""Timeout of a start that waits for the compiler, s."""
AHEAD = 2
"""Maximum number of pulses per thread that are queued or processed, with several threads."""
NO_PICTURE_MAX = 100
"""Number of consecutive pulses without a picture above which the message says so. Fewer are normal,
because a camera may run at a fraction of the machine's rate."""
NOT_PROCESSED = "pictures cannot be processed; the log has the reason"


class Processor(Owner[Pulse, Result]):
    """The owner of the pulses. All methods may be called from any thread.

    It is its own first endpoint (`offer`). `endpoints.service.Service` adds the other endpoints,
    `on_stop` and `unsent_counts`; `iocs.psss.ioc.PsssIOC` adds the recorders and `changed`.

    Parameters
    ----------
    source
        Source of the pulses; it does not run before `start`.
    settings
        Settings at the beginning; None: the defaults.
    threads
        Number of pictures that are processed in parallel.
    """

    notifies_each_item = False
    """100 pulses come per second; displays ask for the newest result at their own rate."""
    idle_text = "stopped"
    waiting_text = "waiting for {item}s"
    silence_text = "no {item} for more than {seconds:g} s"

    def __init__(
        self, source: Source[Pulse], settings: Settings | None = None, threads: int = 1
    ) -> None:
        self.statistics = ServiceStatistics()
        self.on_stop: Callable[[], None] = lambda: None
        """Called after each stop of the source, see `Owner.after_source_stop`."""
        self.unsent_counts: Callable[[], Mapping[str, int]] = dict
        """Function that returns the numbers of messages that could not be sent, by cause."""
        self.warm = threading.Event()
        """Set while no kernel is being compiled; a start waits for it."""
        self.warm.set()
        self._changing = threading.Lock()
        self._applied = (0, settings or Settings())
        self._notes: dict[str, str] = {}
        self._notes_lock = threading.Lock()
        self._shape, self._dtype = (0, 0), ""
        self._without_picture = 0
        """Number of pulses without a picture since the last one with a picture."""
        self._last_failed = False
        """Whether the last picture could not be processed."""
        super().__init__(
            source,
            self._result_of,
            [self],  # its `offer` counts each result before the other endpoints get it
            threads=threads if threads > 1 else 0,
            queue_items=threads * AHEAD,
            when_full="wait",
            name="psss",
            item_name="pulse",
        )

    # ---- state

    @property
    def settings(self) -> Settings:
        """Settings with which the next pulse will be processed."""
        return self._applied[1]

    @property
    def applied(self) -> tuple[int, Settings]:
        """Number and settings for the next pulse; the two always belong together."""
        return self._applied

    @property
    def picture_width(self) -> int:
        """Width of the last picture; 0 before the first one."""
        return self._shape[1]

    @property
    def status(self) -> str:
        """``processing`` or ``stopped``, the words that old clients know.

        It is ``stopped`` while kernels are compiled; `state` has a message then.
        """
        return "processing" if self.is_started else self.idle_text

    def state(self) -> ProcessorState:
        """Return the present state."""
        known = vars(super().state())
        if note := next(iter(self.notes.values()), ""):
            known |= {"message": note, "alarm": True}
        number, settings = self._applied
        return ProcessorState(
            **known,
            shape=self._shape,
            dtype=self._dtype,
            settings=settings,
            settings_number=number,
            unsent=dict(self.unsent_counts()),
        )

    @property
    def notes(self) -> dict[str, str]:
        """Messages of `note` that are shown now, by subject."""
        with self._notes_lock:
            return dict(self._notes)

    def note(self, subject: str, text: str = "") -> None:
        """Show a message, an alarm, until it is replaced; an empty text removes it.

        It takes precedence over the message after a pulse. Each subject has one message.
        """
        with self._notes_lock:
            if self._notes.get(subject, "") == text:
                return
            self._notes.pop(subject, None)
            if text:
                self._notes[subject] = text
                logger.warning("psss: %s", text)
        self.changed()

    # ---- what others ask for

    def start(self) -> None:
        """Start the processing when the kernels are compiled; nothing happens if it runs.

        Raises
        ------
        HardwareError
            If they are not compiled within `WARM_LIMIT_S`, or the source does not start in time.
        SkywrightError
            What the source raises when it cannot start.
        """
        if not self.warm.wait(WARM_LIMIT_S):
            raise HardwareError(f"{WARMING_UP}: the kernels are being compiled; ask again")
        super().start()

    def close(self) -> None:
        """Stop for good; pulses that the owner has received are still processed and published."""
        super().close()
        self.warm.set()  # a start that waits is refused

    def change(self, **changes: Any) -> Settings:
        """Change settings for the next pulses, all or none of them; equal values are no change.

        Parameters
        ----------
        **changes
            Fields of `Settings`, with their new values.

        Raises
        ------
        ConfigError
            If a value is not allowed; the present settings stay.
        """
        with self._changing:  # pulses do not wait while a background is checked
            number, before = self._applied
            settings = replace(before, **changes)
            if not settings.is_same(before):
                self._applied = number + 1, settings
        for name in changes:
            self.note(name)  # removes the message about a value that was refused
        self.changed()
        return settings

    def set_color(self, color: bool) -> bool:
        """Return False: pictures are gray."""
        return False

    # ---- the way of a pulse

    def before_source_start(self) -> None:
        """Reset the statistics."""
        self.statistics.begin()

    def after_source_stop(self) -> None:
        """End the rate, call `on_stop`, and let no alarm stay."""
        self.statistics.end()
        self.on_stop()
        self.report(self.idle_text, alarm=False)

    def process_argument(self, item: Pulse) -> tuple[Pulse, int, Settings]:
        """Return a pulse with the present settings and their number, for its processing."""
        return item, *self._applied

    def _result_of(self, given: tuple[Pulse, int, Settings]) -> Result:
        pulse, number, settings = given
        # The tracebacks of all pulses would fill the disk: after one that is logged, the next one
        # is logged only after a picture that could be processed
        logs_defects = not self._last_failed
        result = process_pulse(pulse, number, settings, self.lost_in_owner, logs_defects)
        if pulse.image is not None:
            self._last_failed = result.pulse.image is None
        return result

    def offer(self, result: Result) -> None:
        """Count a result, and note the size and type of its picture."""
        self.statistics.processed(result.duration_ms, result.begun_s)
        image = picture_of(result)
        if image is not None:
            self._without_picture, self._shape, self._dtype = 0, image.shape, image.dtype.name
        elif result.pulse.has_unusable_picture:
            self._without_picture = 0
        else:
            self._without_picture += 1

    def status_message(self, result: Result) -> tuple[str, bool] | None:
        """Return the message after a result: why it is not recorded, or of its picture.

        None, so that the message stays, for the first `NO_PICTURE_MAX` pulses in a row without a
        picture.
        """
        for recorder in self.recorders:
            name, error = recorder.layout.name, recorder.error  # its thread may clear the error
            if error and recorder.path is not None:
                return f"{name} are not recorded: {error.removeprefix(f'{name}: ')}", True
        image = picture_of(result)
        if image is not None:
            return remark(result, image)
        if self._last_failed:
            return NOT_PROCESSED, True
        if self._without_picture > NO_PICTURE_MAX:
            return "pulses come without a picture", True
        return None


def process_pulse(
    pulse: Pulse,
    settings_number: int,
    settings: Settings,
    counters: Counters,
    logs_defects: bool = True,
) -> Result:
    """Process one pulse with settings, in the calling thread.

    If the picture cannot be processed for any reason, the result is that of a pulse without
    picture. The traceback is then logged, with `logs_defects` as an error.
    """
    begun_s, now_ns = time.monotonic(), time.time_ns()
    begun = time.perf_counter()
    try:
        spectrum = process(pulse.image, settings)
    except Exception:
        level = logging.ERROR if logs_defects else logging.DEBUG
        logger.log(level, "psss: pulse %d", pulse.pulse_id, exc_info=True)
        counters.add("not processed")
        pulse = replace(pulse, image=None)
        spectrum = process(None, settings)
    return Result(
        pulse,
        spectrum,
        settings,
        settings_number,
        now_ns if pulse.time_ns is None else pulse.time_ns,
        begun_s,
        (time.perf_counter() - begun) * 1e3,
    )
