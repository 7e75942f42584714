"""The RunEngine: metadata that lasts, the journal first, then what may fail without harm."""

import sys
from functools import partial

from bluesky import RunEngine, SupplementalData
from bluesky.callbacks.best_effort import BestEffortCallback
from bluesky.utils import (
    FailedStatus,
    ProgressBarManager,
    RunEngineInterrupted,
    TerminalProgressBar,
)

from plans.run_stubs import begin_rewindable
from skywright.callbacks.event_display import events_only, newest_run_only
from skywright.callbacks.isolated import isolated
from skywright.callbacks.journal import Journal
from skywright.session.context import SessionContext, make_analyses
from skywright.session.metadata import check_metadata, next_scan_id
from skywright.session.plain_errors import shorten_engine_log, shorten_tracebacks
from skywright.session.profile import has_display, run_metadata
from skywright.session.saved_metadata import SavedMetadata
from skywright.session.steps import LONG_WAIT_S, RowSteps, show_steps

RE = RunEngine(
    SavedMetadata(settings.directory / "md"),
    md_validator=check_metadata,
    scan_id_source=next_scan_id,
    call_returns_result=True,
)
RE.md.set_for_session(run_metadata(settings))
shorten_engine_log()
show_steps()

journal = Journal(settings.journals, RE)
RE.subscribe(journal)

context = SessionContext(settings, live=make_analyses(settings, RE))
globals().update(context.live)  # each analysis under its own name

bec = BestEffortCallback()
if not has_display():
    bec.disable_plots()
RE.subscribe(isolated(newest_run_only(events_only(bec)), "BestEffortCallback"))
RE.subscribe(isolated(RowSteps(), "RowSteps"))

if sys.stdout.isatty():
    RE.waiting_hook = ProgressBarManager(partial(TerminalProgressBar, delay_draw=LONG_WAIT_S))

if "get_ipython" in globals() and hasattr(get_ipython(), "register_magics"):
    from bluesky.magics import BlueskyMagics

    get_ipython().register_magics(BlueskyMagics)  # %wa, %mov, %ct ...
    shorten_tracebacks(get_ipython(), RunEngineInterrupted, FailedStatus)

sd = SupplementalData()
RE.preprocessors += [sd, begin_rewindable]
