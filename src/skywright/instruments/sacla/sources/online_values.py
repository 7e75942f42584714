"""The values of point detectors: the database is asked for many tags at once."""

import math
from collections import deque
from collections.abc import Callable, Sequence

from skywright.acquire.counters import Counters
from skywright.instruments.sacla.sources.online_api import OnlineApi
from skywright.instruments.sacla.sources.online_run import OnlineRun
from skywright.instruments.sacla.values import parse_value

TAGS_MAX = 600
"""Tags in one call."""
FAILED_CALLS = 8
"""Failed calls after which an equipment is left until the next round."""


class ValueReader:
    """Reads the values of one point detector in one run, each tag until it has a value.

    Parameters
    ----------
    api
        The facility's modules.
    role, equipment
        Key of the point detector, and its id; without an id every value is missing.
    run
        What is read.
    wait_tags
        A value is given up when the newest tag is this far ahead.
    lost
        Values that did not come through, by cause: ``no value`` (None or empty, after a wait) and
        ``database`` (the call failed until the value was given up).
    set_trouble
        Takes trouble with this equipment, or an empty text when there is none.
    """

    def __init__(
        self,
        api: OnlineApi,
        role: str,
        equipment: str,
        run: OnlineRun,
        wait_tags: int,
        lost: Counters,
        set_trouble: Callable[[str], None],
    ) -> None:
        self.role = role
        self._api, self._equipment, self._run = api, equipment, run
        self._wait_tags, self._lost, self._set_trouble = wait_tags, lost, set_trouble
        self._following = run.info.grid.first
        self._pending: deque[int] = deque()
        self._failed = 0

    def read(self) -> None:
        """Ask for the values that may be there now."""
        if self._run.is_full:
            return
        newest = self._run.newest  # before the calls: they know at least this tag's data
        self._await_up_to(newest)
        # The end of a run is known when values behind it are awaited already.
        self._pending = deque(tag for tag in self._pending if self._run.includes(tag))
        if self._pending:
            self._failed = 0
            waiting = [self._pending.popleft() for _ in range(min(len(self._pending), TAGS_MAX))]
            self._pending.extendleft(reversed(self._ask(waiting, newest)))
            if not self._failed:
                self._set_trouble("")
        if not self._pending and not self._run.includes(self._following):
            self._run.finish(self.role)

    def _await_up_to(self, newest: float) -> None:
        step = self._run.info.grid.step
        end = newest if self._run.last is None else min(newest, self._run.last)
        while self._following <= end < math.inf and len(self._pending) < TAGS_MAX:
            self._pending.append(self._following)
            self._following += step
        if end == math.inf:  # the run has no known end, and no more data are awaited
            self._run.finish(self.role)

    def _ask(self, tags: Sequence[int], newest: float) -> list[int]:
        """Deliver what is there; return the tags that are still awaited."""
        if not self._equipment:
            for tag in tags:
                self._run.put_value(self.role, tag, math.nan)
            return []
        try:
            texts = self._api.dbpy.read_syncdatalist(
                self._equipment, self._run.info.hightag, tuple(tags)
            )
            if len(texts) != len(tags):
                raise ValueError(f"{len(texts)} values for {len(tags)} tags")
        except Exception as error:  # one exception for everything; one tag may spoil a whole call
            self._failed += 1
            self._set_trouble(str(error))
            if len(tags) == 1 or self._failed > FAILED_CALLS:
                return self._still_awaited(tags, newest, "database")
            middle = len(tags) // 2
            return self._ask(tags[:middle], newest) + self._ask(tags[middle:], newest)
        empty = []
        for tag, text in zip(tags, texts, strict=True):
            if text is None or text in ("", b""):
                empty.append(tag)
            else:
                self._run.put_value(self.role, tag, parse_value(text))
        return self._still_awaited(empty, newest, "no value")

    def _still_awaited(self, tags: Sequence[int], newest: float, cause: str) -> list[int]:
        """Deliver NaN for the tags that are given up; return the others."""
        waiting = []
        for tag in tags:
            if tag >= newest - self._wait_tags:
                waiting.append(tag)
                continue
            self._lost.add(cause)
            self._run.put_value(self.role, tag, math.nan)
        return waiting
