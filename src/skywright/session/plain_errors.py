"""Messages of one line in a session, in place of tracebacks, for errors that say what to do.

These are skywright's own kinds of errors, and the `ValueError` and `TypeError` by which a plan or
device refuses an argument. A mistake at the prompt is one line too; it says what to type instead.
"""

import inspect
import logging
import re
import sysconfig
import traceback
from collections.abc import Mapping
from types import FrameType
from typing import Any

import httpx

from skywright.arguments import TEXT_MAX, did_you_mean
from skywright.errors import SkywrightError

ENGINE_LOG = "bluesky"
OURS = ("skywright", "plans", "devices")
NEED_A_PLAN = ("_abort_coro", "_stop_coro", "_halt_coro", "resume")
"""Functions of bluesky's RunEngine that raise when no plan runs or is paused."""
PLANS = ("bluesky.plans", "bluesky.plan_stubs")
ARGUMENTS_OF_PLANS = (
    *PLANS,
    "bluesky.plan_patterns",
    "bluesky.preprocessors",
    "bluesky.protocols",
)
"""Modules of bluesky that look at the arguments of its plans."""
PREPROCESSOR = "begin_rewindable.<locals>.rewindable"
"""Function of `plans.run_stubs` in which the RunEngine of a session runs every plan."""
TYPED = ("<module>", "<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
"""Names of the code of a line that was typed, and of the comprehensions in it."""
INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
CATALOG = "bluesky_tiled_plugins.clients.catalog_of_bluesky_runs"
"""Module whose `__getitem__` looks up a run in `cat`."""
METADATA_CHECK = ("event_model", "compose_run")
"""Module and function that check the metadata of a start document."""
CALL_THE_PLAN = "call the plan: RE(plan(...))"
WRONG_CALL = re.compile(r"(?:.*\.)?(\w+)\(\) (?:missing|takes|got) ")


def is_refusal(error: BaseException) -> bool:
    """Return whether an error tells a person what to do, so that a traceback would only hide it."""
    if isinstance(error, SkywrightError):
        return True
    return isinstance(error, (TypeError, ValueError)) and _raised_in(error) in OURS


def _raised_in(error: BaseException) -> str:
    """Return the top package of the code that has raised an error; "" if unknown."""
    frames = _frames(error)
    return _package(frames[-1]) if frames else ""


def _frames(error: BaseException) -> list[FrameType]:
    """Return the frames that an error went through; that of the code that has raised it is last."""
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def hint_after_mistake(error: BaseException, namespace: Mapping[str, Any]) -> str:
    """Return what to type instead, after a mistake at the prompt; "" for any other error.

    Parameters
    ----------
    error
        Error of a line that a person has typed.
    namespace
        Namespace of the console.
    """
    frames = _frames(error)
    if not frames:
        return ""
    frame = frames[-1]
    where = _raised_in(error), frame.f_code.co_name
    # %run of a file that does not exist
    if where[0] == "IPython" and isinstance(error.__cause__, OSError):
        return "%run looks for the file in the directory of %pwd; %ls lists what is there"
    if where == ("__main__", "<module>"):
        if isinstance(error, TypeError) and str(error).startswith("RunEngine.__call__() "):
            return CALL_THE_PLAN
        if isinstance(error, NameError):
            hint = did_you_mean(error.name or "", namespace)
            return hint or "listdevs() and whos list what there is"
        wrong = WRONG_CALL.match(str(error)) if isinstance(error, TypeError) else None
        called = namespace.get(wrong[1]) if wrong else None
        return _usage(wrong[1], called) if wrong and callable(called) else ""
    if where == ("bluesky", "ensure_generator"):
        plan = getattr(frame.f_locals.get("plan"), "__name__", "")
        return f"call the plan: RE({plan or 'plan'}(...))"
    if where == ("bluesky", "normalize_subs_input") or _is_no_message(error):
        return CALL_THE_PLAN
    if where == ("bluesky", "__call__") and isinstance(error, RuntimeError):
        return "RE.resume() continues the paused plan; RE.stop() or RE.abort() ends it"
    if (
        where[0] == "bluesky"
        and where[1] in NEED_A_PLAN
        and type(error).__name__ == "TransitionError"
    ):
        return "no plan runs or is paused: RE(...) runs one"
    is_metadata = where in (("bluesky", "_default_md_validator"), ("bluesky", "open_run"))
    if is_metadata or _went_through(error, *METADATA_CHECK):
        return "md={'sample': 'NAME'} or md={'sample': {'name': 'NAME', ...}}"
    if isinstance(error, httpx.TransportError) and _is_request_to_tiled(error):
        return (
            "tiled does not answer; plans can go on, their runs wait in journals; "
            "`skywright doctor` tells what to do"
        )
    if isinstance(error, (LookupError, ValueError)) and _went_through(
        error, CATALOG, "__getitem__"
    ):
        return (
            "[-1] is the newest run, [-2] the one before, [7] the newest with scan_id 7, "
            "['a1b2c3'] the one whose uid begins so; `skywright runs` lists them"
        )
    if where == ("tiled", "__getitem__") and not any(map(_is_users_own, frames)):
        return "list(cat[-1]) names the streams of a run, list(cat[-1]['primary']) columns of one"
    return _hint_on_arguments(error)


def _is_no_message(error: BaseException) -> bool:
    """Return whether the plan yields something that is no message, such as a text."""
    of_bluesky = [frame for frame in _frames(error) if _package(frame) == "bluesky"]
    if not isinstance(error, AttributeError) or not of_bluesky:
        return False
    local = of_bluesky[-1].f_locals
    return "msg" in local and not hasattr(local["msg"], "command")


def _is_request_to_tiled(error: BaseException) -> bool:
    """Return whether a request is to tiled; a function of the user's may ask any server."""
    frames = _frames(error)
    of_tiled = any(_package(frame) == "tiled" for frame in frames)
    return of_tiled or not any(map(_is_users_own, frames))


def _went_through(error: BaseException, module: str, function: str) -> bool:
    """Return whether an error went through a function, up to the line that was typed."""
    where = (module, function)
    return any((_module(frame), frame.f_code.co_name) == where for frame in _frames(error))


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _package(frame: FrameType) -> str:
    """Return the top package of the module that a frame is of."""
    return _module(frame).partition(".")[0]


def _is_plan_of_ours(frame: FrameType) -> bool:
    return _package(frame) in OURS and frame.f_code.co_qualname != PREPROCESSOR


def _is_users_own(frame: FrameType) -> bool:
    """Return whether a frame is of a function of the user's: neither installed nor the line typed.

    The user has defined it at the prompt, or in a file of their own.
    """
    module, file = _module(frame), frame.f_code.co_filename
    if module == "__main__":
        return frame.f_code.co_name not in TYPED
    return _package(frame) not in OURS and not file.startswith((*INSTALLED, "<"))


def _hint_on_arguments(error: BaseException) -> str:
    """Return how a plan of bluesky is called whose arguments are wrong; "" for any other error.

    The RunEngine runs a plan far below the line that was typed: a traceback would be some hundred
    lines of bluesky.
    """
    if not isinstance(error, (AssertionError, AttributeError, TypeError, ValueError)):
        return ""
    frames = _frames(error)
    of_bluesky = [frame for frame in frames if _package(frame) == "bluesky"]
    plan = next((frame for frame in of_bluesky if _module(frame) in PLANS), None)
    if plan is None or _module(of_bluesky[-1]) not in ARGUMENTS_OF_PLANS:
        return ""
    if any(map(_is_plan_of_ours, frames[: frames.index(plan)])):
        return ""  # not the plan that was typed
    if any(map(_is_users_own, frames)):
        return ""  # only the traceback says where in it
    last = of_bluesky[-1]
    name = plan.f_code.co_name
    usage = _usage(name, plan.f_globals.get(name)) or name
    md = plan.f_locals.get("md")
    if md is not None and not isinstance(md, Mapping):
        return f"md = {md!r:.{TEXT_MAX}}, expected a dictionary: {usage}"
    if last.f_code.co_name == "check_supports":
        wanted, device = last.f_locals["protocol"].__name__, last.f_locals["obj"]
        return f"{getattr(device, 'name', device)} is not {wanted}: {usage}"
    return usage


def _usage(name: str, called: Any) -> str:
    """Return how a function is called, without the types of its arguments; "" if unknown."""
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):  # a builtin; IPython drops a handler that raises, for good
        return ""
    bare = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    return f"{name}{signature.replace(parameters=bare, return_annotation=signature.empty)}"


def _shorten_refusal(record: logging.LogRecord) -> bool:
    """Turn the log record of a refusal into one line; return True, so that `logging` keeps it."""
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and is_refusal(error):
        record.msg = f"{record.getMessage()}: {type(error).__name__}: {error}"
        record.args, record.exc_info = (), None
    return True


def shorten_engine_log() -> None:
    """Let the log of the RunEngine have one line for each refusal; safe to call again."""
    logging.getLogger(ENGINE_LOG).addFilter(_shorten_refusal)


def shorten_tracebacks(shell: Any, *kinds: type[BaseException]) -> None:
    """Let IPython show only the error itself and a hint; ``%tb`` shows the traceback.

    Parameters
    ----------
    shell
        IPython's ``InteractiveShell``.
    *kinds
        Further errors whose text, or that of their cause, says what to do, such as bluesky's
        interruption of a plan.
    """

    def show(shell: Any, kind: type, error: BaseException, trace: Any, **_: Any) -> None:
        hint = hint_after_mistake(error, shell.user_ns)
        notes, cause = [hint], error.__cause__
        if isinstance(error, kinds) and cause is not None:
            line = f"{type(cause).__name__}: {cause}".removesuffix(": ")
            if (str(cause) or line) not in str(error):
                notes.append(line)
        for note in notes:
            # An error that is shown again has them already.
            if note and note not in getattr(error, "__notes__", ()):
                error.add_note(note)
        short = bool(hint) or isinstance(error, kinds) or is_refusal(error)
        shell.showtraceback((kind, error, trace), exception_only=short)

    shell.set_custom_exc((Exception,), show)
