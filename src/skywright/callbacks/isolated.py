"""Keep a failing subscriber out of the run."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

log = logging.getLogger(__name__)

Callback = Callable[[str, Mapping[str, Any]], Any]


def isolated(callback: Callback, name: str = "") -> Callback:
    """Return `callback` such that it cannot fail the run.

    `name` is for the log; by default that of `callback`.

    The RunEngine raises what a subscriber raises into the plan. That is right for the journal and
    wrong for tables, plots and analyses: their exceptions are logged, the first of each run in
    full, and the run goes on.
    """
    name = name or getattr(callback, "__qualname__", type(callback).__qualname__)
    failures = 0

    def guard(document: str, doc: Mapping[str, Any]) -> None:
        nonlocal failures
        if document == "start":
            failures = 0
        try:
            callback(document, doc)
        except Exception:
            failures += 1
            if failures == 1:
                log.exception("%s failed on a %s document; the run goes on", name, document)
            else:
                log.debug("%s failed on a %s document again", name, document, exc_info=True)

    return guard
