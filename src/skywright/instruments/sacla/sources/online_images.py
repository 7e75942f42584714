"""The thread that reads the images of one detector, tag after tag."""

import logging
import math
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from skywright.acquire.counters import Counters
from skywright.instruments.sacla.sources.online_api import (
    Cause,
    ImageReader,
    OnlineApi,
    TimedCaller,
    cause_of,
)
from skywright.instruments.sacla.sources.online_run import OnlineRun, OnlineRuns
from skywright.instruments.sacla.sources.online_settings import OnlineSettings
from skywright.instruments.sacla.sources.troubles import Troubles

logger = logging.getLogger(__name__)
WRONG_TAG_TRIES = 2
ANSWER_S = 1.0
"""A detector whose call takes longer is not asked what it is in a run that begins. Meanwhile the
ring buffers keep the first images of the run: 100 tags are 1.7 s."""
AHEAD_TAGS_MAX = 3600
"""An image whose tag is this far above the accelerator's is from before the tags began anew."""


class ImageThread(TimedCaller, threading.Thread):
    """Reads one detector: run after run, each tag once.

    A tag is asked for until it is there. It is given up when the detector has a newer image but not
    this one, or when the accelerator is far ahead of it. A detector that cannot be reached is tried
    again and again.

    Parameters
    ----------
    api
        The facility's modules.
    detector
        Its id.
    settings
        Waiting times.
    runs
        What is read.
    lost
        Images that did not come through, by cause: ``missing`` (the detector has none), ``gone``
        (the ring buffer has moved on), ``wrong tag``, ``wrong shape``, ``detector absent``,
        ``no image`` (neither it nor a newer one has come).
    troubles
        Takes trouble with the detector, and messages.
    stopping
        Ends the thread.

    Attributes
    ----------
    facts
        What the detector says of itself; None before the first connection.
    answered
        Newest run in which the detector was asked what it is.
    newest_tag
        Tag of its newest image then; -1 if it did not say.
    """

    def __init__(
        self,
        api: OnlineApi,
        detector: str,
        settings: OnlineSettings,
        runs: OnlineRuns,
        lost: Counters,
        troubles: Troubles,
        stopping: threading.Event,
    ) -> None:
        super().__init__(name=f"sacla-{detector}", daemon=True)
        self.facts: dict[str, Any] | None = None
        self._api, self._detector, self._settings = api, detector, settings
        self._runs, self._lost, self._stopping = runs, lost, stopping
        self._reader: ImageReader | None = None
        self._report, self._set_trouble = troubles.report, partial(troubles.set, detector)
        self._asked = self.answered = 0
        self.newest_tag = -1
        self._tag_is_asked = False
        self._checked_s = self._moved_s = time.monotonic()
        self._tried_s = 0.0
        self._seen = self._confirmed = -1
        self._wrong = 0

    @property
    def is_connected(self) -> bool:
        """Whether the detector has answered lately."""
        return self._reader is not None and not self.hangs

    @property
    def hangs(self) -> bool:
        """Whether a call has not returned for `OnlineSettings.silent_s`."""
        return time.monotonic() - self.called_s > self._settings.silent_s

    def ask(self, run: int) -> bool:
        """Have the thread ask what the detector is in a run.

        Returns
        -------
        bool
            Whether the answer is still to come. If False, `facts` and `newest_tag` are those of the
            run; of a detector that does not answer they are older.
        """
        if self._asked != run:
            self._asked, self._tag_is_asked = run, True
        answers = self._reader is not None and time.monotonic() - self.called_s <= ANSWER_S
        is_asked = self._tag_is_asked or self.answered != run
        return is_asked and self.is_alive() and answers

    def ask_tag_again(self) -> None:
        """Have the thread ask for the newest tag anew; until it has, `ask` returns True."""
        self._tag_is_asked = True

    def connect(self) -> None:
        """Connect and ask what the detector is.

        Raises
        ------
        Exception
            If it cannot be reached, or has no image yet.
        """
        reader = ImageReader(self._api, self._detector)
        self.facts = reader.facts()
        self.newest_tag = reader.newest_tag()
        self._note_newest(self.newest_tag)
        self._reader = reader

    def run(self) -> None:
        """Read until the end."""
        for run in self._each_run():
            tag = run.info.grid.first
            self._forget_far(tag)
            self._begin_tag()
            while self._is_wanted(run, tag):
                self._answer()
                following = self._read(run, tag)
                if following != tag:
                    self._begin_tag()
                tag = following
            if not self._stopping.is_set():  # what is left was given up while the detector hung
                self._skip_before(run, tag, max(tag, run.at_or_after(math.inf)), "detector absent")
            run.finish(self._detector)

    def _is_wanted(self, run: OnlineRun, tag: int) -> bool:
        is_awaited = run.includes(tag) and run.awaits(self._detector)
        return is_awaited and not self._stopping.is_set()

    def _answer(self) -> None:
        """Ask what the detector is, and for its newest tag, if that is wanted."""
        run = self._asked
        if self._tag_is_asked and self._reader is not None:
            self.newest_tag = -1
            try:
                self.newest_tag = self.call(self._reader.newest_tag)
            except Exception as error:  # the facility's modules have one exception for everything
                if self._lose_connection(error):
                    return
                logger.info("%s: its newest tag is not known: %s", self._detector, error)
            self._tag_is_asked = False
        if self.answered != run and self._reader is not None:
            try:
                self.facts = self.call(self._reader.facts)
            except Exception as error:  # the facts of the run before stay
                if self._lose_connection(error):
                    return
                gain = f"run {run} uses its gain of the run before"
                self._report(f"{self._detector}: {error}; {gain}")
            self.answered = run

    def _each_run(self) -> Iterator[OnlineRun]:
        run = None
        while not self._stopping.is_set():
            self._answer()
            found = self._runs.after(run, self._settings.database_s)
            if found is not None:
                run = found
                yield run

    def _begin_tag(self) -> None:
        self._checked_s = time.monotonic()
        self._wrong = 0

    def _read(self, run: OnlineRun, tag: int) -> int:
        """Try to read an image; return the tag to be read next."""
        if run.skipped - tag > self._settings.ring_tags // 2:
            return self._skip_to(run, tag, run.skipped)
        reached = run.newest  # before the call: an image that is not there now may come meanwhile
        if self._reader is None and not self._reconnected(run):
            if run.has_ended:  # the next run does not wait for it
                reached = math.inf
            awaited = self._first_awaited(run, tag, reached)
            return self._skip_before(run, tag, awaited, "detector absent")
        assert self._reader is not None
        try:
            found, image = self.call(self._reader.read, tag)
        except Exception as error:  # the facility's modules have one exception for everything
            return self._failed(run, tag, reached, error)
        if found < tag and self._seen <= tag:  # the newest in place of one that is still to come
            early = LookupError(f"tag {tag} is not there yet")
            return self._failed(run, tag, reached, early)
        if found != tag:
            return self._got_wrong(run, tag)
        self._note_newest(tag)
        run.reach(tag)
        if image.shape != (expected := run.info.shapes.get(self._detector, image.shape)):
            if not run.is_confirmed(tag):  # it may be of the next run
                self._stopping.wait(self._settings.poll_s)
                return tag
            self._set_trouble(f"images have the shape {image.shape}, expected {expected}")
            return self._skip(run, tag, 1, "wrong shape")
        self._set_trouble("")
        is_wanted = run.put_image(self._detector, tag, image)
        return tag + run.info.grid.step if is_wanted else tag

    def _failed(self, run: OnlineRun, tag: int, reached: float, error: Exception) -> int:
        cause = cause_of(error)
        if self._lose_connection(error):
            return tag
        if cause is Cause.GONE and tag <= run.newest:
            return self._after_gone(run, tag)
        now = time.monotonic()
        if now - self._checked_s > self._settings.check_s:
            self._checked_s = now
            newest = self._newest(run)
            if self._reader is None:  # it has gone away meanwhile
                return tag
            if newest is not None and newest > tag:
                if self._confirmed == tag:  # asked once more since, and still there is none
                    return self._skip(run, tag, 1, "missing")
                self._confirmed = tag
                return tag
            if now - self._moved_s > self._settings.silent_s:
                self._set_trouble(f"no new image for {self._settings.silent_s:g} s ({error})")
        awaited = self._first_awaited(run, tag, reached)
        if awaited == tag:
            self._stopping.wait(self._settings.poll_s)
            return tag
        newest = self._newest(run)
        if newest is not None and newest > tag:  # those behind it may be there
            return self._skip(run, tag, 1, "missing")
        return self._skip_before(run, tag, awaited, "no image")

    def _after_gone(self, run: OnlineRun, tag: int) -> int:
        """Go on with the next image, or with the newest if this one is far behind it."""
        newest = self._newest(run)
        if newest is None or newest - tag <= self._settings.ring_tags // 2:
            return self._skip(run, tag, 1, "missing")
        run.skip(newest)
        return self._skip_to(run, tag, newest)

    def _skip_to(self, run: OnlineRun, tag: int, newest: float) -> int:
        following = run.at_or_after(newest)
        if run.last is not None:
            following = min(following, run.at_or_after(run.last + 1))
        count = max((following - tag) // run.info.grid.step, 1)
        self._report(f"{self._detector}: reading fell behind, {count} images are gone")
        return self._skip(run, tag, count, "gone")

    def _got_wrong(self, run: OnlineRun, tag: int) -> int:
        """Drop an image of another tag; ask once more, then go on."""
        self._wrong += 1
        if self._wrong < WRONG_TAG_TRIES:
            return tag
        return self._skip(run, tag, 1, "wrong tag")

    def _first_awaited(self, run: OnlineRun, tag: int, reached: float) -> int:
        """Return the first tag that is awaited when the accelerator has reached a tag."""
        if reached == math.inf and run.last is None:
            return tag
        following = run.at_or_after(reached - self._settings.wait_tags)
        if run.last is not None:
            following = min(following, run.at_or_after(run.last + 1))
        return max(following, tag)

    def _skip_before(self, run: OnlineRun, tag: int, following: int, cause: str) -> int:
        if following == tag:
            return tag
        return self._skip(run, tag, (following - tag) // run.info.grid.step, cause)

    def _skip(self, run: OnlineRun, tag: int, count: int, cause: str) -> int:
        self._lost.add(cause, count)
        return tag + count * run.info.grid.step

    def _newest(self, run: OnlineRun) -> int | None:
        """Return the tag of the newest image; None if it is not known or of other tags."""
        assert self._reader is not None
        try:
            newest = self.call(self._reader.newest_tag)
        except Exception as error:
            self._lose_connection(error)
            return None
        if newest > run.newest + AHEAD_TAGS_MAX:
            return None
        self._note_newest(newest)
        return newest

    def _lose_connection(self, error: Exception) -> bool:
        """Return whether an error says that the detector is away; then it is tried again."""
        is_lost = cause_of(error) is Cause.CONNECTION
        if is_lost:
            self._reader = None
            self._set_trouble(str(error))
        return is_lost

    def _reconnected(self, run: OnlineRun) -> bool:
        """Try to reach the detector, not too often; return whether it answers."""
        now = time.monotonic()
        if now - self._tried_s < self._settings.retry_s:
            self._stopping.wait(self._settings.poll_s)
            return False
        self._tried_s = now
        try:
            self.call(self.connect)
        except Exception as error:
            self._set_trouble(str(error))
            return False
        self._forget_far(run.newest)
        self._set_trouble("")
        self._begin_tag()
        return True

    def _forget_far(self, reached: float) -> None:
        """Forget the newest image if its tag is far ahead: it is of other tags, or wrong."""
        if self._seen > reached + AHEAD_TAGS_MAX:
            self._seen = -1

    def _note_newest(self, tag: int) -> None:
        """Take note of the newest image."""
        if tag > self._seen:
            self._seen, self._moved_s = tag, time.monotonic()
