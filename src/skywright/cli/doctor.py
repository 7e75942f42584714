"""``skywright doctor``: what a session needs, checked one by one, and what to do about it."""

import ctypes
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from skywright.checks import Check, Status, doubtful, good, wrong
from skywright.cli import EXIT_FAILED
from skywright.cli.data_directories import data_directories, why_unreadable
from skywright.cli.output import (
    ConfigOption,
    JsonOption,
    make_console,
    print_json,
    share_configuration,
)
from skywright.cli.up import (
    DASHBOARD,
    INGESTER,
    REPEATER,
    TILED,
    check_directory,
    check_room,
)
from skywright.config import FILE_NAME, Settings, configuration_file, load_settings
from skywright.errors import ConfigError, SkywrightError
from skywright.instruments import Instrument, instruments, missing_packages
from skywright.packages import installed_version, not_installed, requirements_of
from skywright.processes import locks, stack
from skywright.processes.ports import port_is_free
from skywright.store.tail import is_locked, journals_in, waiting_journals
from skywright.words import counted

if TYPE_CHECKING:
    from packaging.requirements import Requirement

LOW_DISK_BYTES = 5_000_000_000
STALE_JOURNAL_S = 10.0
CLOCK_TOLERANCE_S = 0.5
PROBE_LIMIT_S = 60.0
"""Timeout for the process that asks for all PVs."""
EXTRAS = ("epics", "bluesky", "store", "session")


def doctor(
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the installation, the configuration and the running stack; say what to do.

    Exit status 1 when something is wrong.
    """
    share_configuration(config)
    checks = list(examine())
    failed = any(check.status is Status.wrong for check in checks)
    if as_json:
        print_json({"ok": not failed, "checks": checks})
    else:
        _show(checks)
    raise typer.Exit(EXIT_FAILED if failed else 0)


def _show(checks: list[Check]) -> None:
    from rich.table import Table
    from rich.text import Text

    color = {Status.ok: "green", Status.warning: "yellow", Status.wrong: "red"}
    table = Table.grid(padding=(0, 2))
    for check in checks:
        found = Text(check.found)
        if check.todo:
            found.append(f"\n→ {check.todo}", style="bold")
        table.add_row(Text(check.status, style=color[check.status]), Text(check.name), found)
    make_console().print(table)


def examine() -> Iterator[Check]:
    """Yield all checks; those that need what has failed are left out."""
    try:
        settings = load_settings()
    except ConfigError as error:
        yield from check_versions()
        yield wrong("configuration", str(error), "correct what it names")
        return
    yield from check_versions(settings)
    yield good("configuration", _source())
    yield from check_analyses(settings)
    yield from check_disk(settings)
    yield from check_data(settings)
    yield from check_keys(settings)
    yield check_host_clock()
    try:
        state = stack.read_state(settings.directory)
    except (NotADirectoryError, PermissionError) as error:
        found = f"whether it runs is not known: {error.filename}: {error.strerror}"
        todo = "correct store.directory, or ask again as the user who runs `skywright up`"
        yield wrong("up", found, todo)
        return
    yield from check_ports(settings, state)
    yield from check_stack(settings, state)
    yield from check_session(settings)
    if state is not None and state.tiled_uri:
        yield from check_tiled(settings, state)
    yield check_journals(settings, state)
    if state is not None:
        yield from check_pvs(settings)


def quick_checks(settings: Settings) -> Iterator[Check]:
    """Yield the checks that are cheap enough to repeat while somebody looks; they write nothing."""
    state = stack.read_state(settings.directory)
    yield from check_disk(settings, check_room)
    yield check_host_clock()
    yield from check_stack(settings, state)
    yield from check_session(settings)
    yield check_journals(settings, state)


def _source() -> str:
    file = configuration_file()
    return str(file.resolve()) if file.is_file() else f"defaults (no {FILE_NAME} here)"


def check_versions(settings: Settings | None = None) -> Iterator[Check]:
    """Compare the installed packages with what skywright and the instruments' packages ask for.

    Extras of instruments that are not configured may be left out. Without settings, all
    instruments count as configured.
    """
    from skywright.session.context import configured_instruments

    used = configured_instruments(settings) if settings is not None else instruments()
    old: dict[str, str] = {}
    version_of = cache(installed_version)
    for requirement in _requirements(instruments()):
        installed = version_of(requirement.name)
        if installed and not requirement.specifier.contains(installed, prereleases=True):
            needed = f"{requirement.name} {installed} (needs {requirement.specifier})"
            old.setdefault(requirement.name, needed)
    of_others = [f" '{each.to_install}'" for each in used.values() if each.package != "skywright"]
    targets = "'skywright[all]'" + "".join(of_others)
    missing = not_installed(_requirements(used))
    if missing:
        yield wrong("versions", f"not installed: {', '.join(missing)}", f"pip install {targets}")
    if old:
        found = ", ".join(old.values())
        yield wrong("versions", found, f"pip install --upgrade {targets}")
    if not missing and not old:
        own = f"skywright {installed_version('skywright')}, Python {sys.version.split()[0]}"
        unused = {name: each for name, each in instruments().items() if name not in used}
        incomplete = (name for name, each in unused.items() if missing_packages(each))
        if without := ", ".join(incomplete):
            own += f"; packages of {without} are missing, which no configured IOC needs"
        yield good("versions", own)


def _requirements(chosen: Mapping[str, Instrument]) -> "Iterator[Requirement]":
    """Yield what a session with these instruments requires."""
    yield from requirements_of("skywright", EXTRAS)
    for each in chosen.values():
        yield from requirements_of(each.package, [each.extra])


def check_analyses(settings: Settings) -> Iterator[Check]:
    """Check that the session's live analyses can be made as the configuration says."""
    from skywright.analysis.named import (
        configured_parameters,
        make_analysis,
        make_second_stage,
    )
    from skywright.session.context import configured_instruments

    made = []
    for instrument in configured_instruments(settings).values():
        for name, analysis in instrument.analyses.items():
            if not analysis.live or not (analysis.settings or analysis.after):
                continue
            make = make_second_stage if analysis.after else make_analysis
            try:
                make(name, configured_parameters(name, settings))
                made.append(name)
            except ConfigError as error:
                yield wrong("analyses", str(error), f"correct the section [{instrument.name}]")
            except ImportError as error:
                todo = f"install it, or correct the section [{instrument.name}]"
                yield wrong("analyses", f"analysis {name}: {error}", todo)
    if made:
        yield good("analyses", f"{', '.join(made)}: as configured")


def check_disk(
    settings: Settings, check: Callable[[Settings], None] = check_directory
) -> Iterator[Check]:
    """Check that the store can be written and has room; `check` raises `ConfigError` if not."""
    try:
        check(settings)
    except ConfigError as error:
        yield wrong("disk", str(error), "see the message")
        return
    for directory in (settings.directory, *(each.expanduser() for each in settings.store.readable)):
        free = shutil.disk_usage(directory).free
        found = f"{directory}: {free / 1e9:.1f} GB free"
        if free < LOW_DISK_BYTES:
            yield doubtful("disk", found, "make room before a long run")
        else:
            yield good("disk", found)
    if not str(settings.directory).isascii():
        found = f"{settings.directory}: IOCs need a path of ASCII characters to record there"
        yield wrong("disk", found, "set store.directory to another one; plans that record fail")


def check_data(settings: Settings) -> Iterator[Check]:
    """Check that tiled may read the files that other programs write."""
    for name, directory in data_directories(settings).items():
        why = why_unreadable(directory)
        if why:
            yield wrong("data", f"{name}: {why}", "give this user, who runs tiled, access")
        elif not directory.exists():
            todo = "mount it, or correct the IOC's args, unless the IOC is to make it"
            yield doubtful("data", f"{name}: {directory} does not exist", todo)
        elif settings.store.tiled_uri:
            found = f"{name}: {directory} can be read here; tiled is {settings.store.tiled_uri}"
            yield doubtful("data", found, "see that it can read this directory at the same path")
        else:
            yield good("data", f"{name}: tiled may read {directory}")


def check_keys(settings: Settings) -> Iterator[Check]:
    """Check that no key can be read by others."""
    files = [settings.directory / "tiled" / "api_key"]
    if settings.store.api_key and "SKYWRIGHT_STORE__API_KEY" not in os.environ:
        files.append(configuration_file())
    for file in files:
        try:
            mode = stat.S_IMODE(file.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            yield good("keys", f"{file}: not visible to this user")
            continue
        if mode & 0o077:
            found = f"{file}: mode {mode:o}, others can read or change it"
            yield wrong("keys", found, f"chmod 600 {file}")
        else:
            yield good("keys", f"{file}: for its owner alone")


def check_host_clock() -> Check:
    """Ask the kernel whether something keeps the clock right (adjtimex(2), Linux only)."""
    adjtimex = getattr(ctypes.CDLL(None, use_errno=True), "adjtimex", None)
    if adjtimex is None:
        return good("clock", "this system does not say whether it is synchronized")
    time_error = 5  # TIME_ERROR of <sys/timex.h>
    state = adjtimex(ctypes.create_string_buffer(256))  # struct timex, modes 0: only read
    if state == -1:  # refused, as in some containers
        why = os.strerror(ctypes.get_errno())
        return good("clock", f"it is not known whether it is synchronized: {why}")
    if state == time_error:
        todo = "start chrony, ntpd or systemd-timesyncd if runs of several machines are compared"
        return doubtful("clock", "the host's clock is not synchronized", todo)
    return good("clock", "the host's clock is synchronized")


def check_ports(settings: Settings, state: stack.State | None) -> Iterator[Check]:
    """Check that configured ports are free, when nothing of ours should have them."""
    if state is not None or stack.not_ready(settings.directory):
        return
    for key, port in settings.ports.items():
        if port and not port_is_free(port):
            todo = "stop the process that has it, or set another port, or 0 for any"
            yield wrong("ports", f"{key}: port {port} is taken", todo)


def check_stack(settings: Settings, state: stack.State | None) -> Iterator[Check]:
    """Check that `skywright up` runs, with every part of it."""
    if state is None:
        if starting := stack.not_ready(settings.directory):
            todo = f"try again when it says that it is ready; logs: {settings.directory / 'logs'}"
            yield wrong("up", starting, todo)
        else:
            yield wrong("up", stack.NOT_RUNNING, "start `skywright up`")
        return
    hours = (time.time() - state.started) / 3600
    yield good("up", f"process {state.pid}, since {hours:.1f} h, PVs {state.prefix}")
    expected = [name for name, ioc in settings.iocs.items() if not ioc.address]
    expected += [REPEATER] if expected else []
    expected += [DASHBOARD] if settings.dashboard.with_up else []
    expected += settings.services
    expected += [INGESTER] if settings.store.tiled_uri else [TILED, INGESTER]
    for name in expected:
        child = state.processes.get(name)
        log = settings.directory / "logs" / f"{name}.log"
        if child is None:
            todo = f"`up` starts it again by itself; if it does not come, look at {log}; "
            todo += "if `up --only` left it out, start `up` without"
            yield wrong("up", f"{name} does not run", todo)
        elif child.restarts:
            times = counted(child.restarts, "time")
            yield doubtful("up", f"{name} was restarted {times}", f"look at {log}")


def check_session(settings: Settings) -> Iterator[Check]:
    """Say who holds the store's session, if anybody does."""
    owner = locks.lock_owner(settings.directory / stack.SESSION_LOCK)
    if owner is not None:
        yield good("session", f"process {owner} has the session of this store")


def check_tiled(settings: Settings, state: stack.State) -> Iterator[Check]:
    """Check that tiled answers, takes our key and writes, and reads our files."""
    import httpx

    from skywright.store.client import catalog, connect, trusts_environment
    from skywright.store.probe import check_readable, takes_writes

    log = settings.directory / "logs" / "tiled.log"
    try:
        trusted = trusts_environment(state.tiled_uri)
        httpx.get(f"{state.tiled_uri}/healthz", timeout=5, trust_env=trusted).raise_for_status()
        client = connect(state.tiled_uri, settings=settings)
        found = f"{state.tiled_uri}: {len(catalog(client))} raw runs"
        if not takes_writes(client):
            yield wrong("tiled", f"{found}, but it takes no data", f"look at {log}, and the disk")
            return
        key = client.context.api_key or ""
        readable = [path.expanduser() for path in settings.store.readable]
        check_readable(state.tiled_uri, key, [settings.assets, *readable])
    except (SkywrightError, httpx.HTTPError, OSError) as error:
        yield wrong("tiled", f"{state.tiled_uri}: {error}", f"look at {log}")
    else:
        yield good("tiled", f"{found}; takes data and reads the files of the store")


def check_journals(settings: Settings, state: stack.State | None) -> Check:
    """Check that the ingester keeps up: finished journals must not wait."""
    try:
        ages = map(_age_s, waiting_journals(settings.journals))
        waiting = [age_s for age_s in ages if age_s > STALE_JOURNAL_S]
        running = sum(map(is_locked, journals_in(settings.journals)))
        aside = len(journals_in(settings.journals / "aside"))
    except PermissionError as error:
        found = f"whether runs wait is not known: {error.filename} cannot be read by this user"
        return doubtful("ingester", found, "ask again as the user who runs `skywright up`")
    log = settings.directory / "logs" / "ingester.log"
    if waiting:
        found = (
            f"{len(waiting)} finished runs are not in tiled, the oldest since {max(waiting):.0f} s"
        )
        todo = f"look at {log}" if state else "start `skywright up`, or run `skywright recover`"
        return wrong("ingester", found, todo)
    if aside:
        return wrong(
            "ingester",
            f"{aside} runs could not be stored; their journals are in journal/aside",
            f"run `skywright recover`, which tries again; the reason is in {log}",
        )
    return good("ingester", f"all finished runs are in tiled; {running} open")


def _age_s(journal: Path) -> float:
    """Return the time since a journal was written, s; 0 if it has just been moved."""
    with suppress(FileNotFoundError):
        return time.time() - journal.stat().st_mtime
    return 0.0


def check_pvs(settings: Settings) -> Iterator[Check]:
    """Check that every PV of every device answers, and that the IOCs' clocks are not ahead."""
    command = [sys.executable, "-m", "skywright.cli.pv_probe"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PROBE_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        found = f"they cannot be asked: the probe has not ended within {PROBE_LIMIT_S:g} s"
        yield wrong("PVs", found, "look at the start-up files' devices and the load of this host")
        return
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        yield wrong("PVs", f"they cannot be asked: {words}", "look at the start-up files' devices")
        return
    for name, facts in json.loads(done.stdout.splitlines()[-1]).items():
        silent, count = facts["silent"], facts["pvs"]
        if silent:
            found = f"{name}: {len(silent)} of {count} PVs do not answer: {_few(silent)}"
            prefixes = {ioc: settings.pv_prefix(ioc) for ioc in settings.iocs}
            ioc = next((ioc for ioc, its in prefixes.items() if silent[0].startswith(its)), name)
            todo = f"is its IOC running? look at {settings.directory / 'logs' / f'{ioc}.log'}"
            yield wrong("PVs", found, todo)
        else:
            yield good("PVs", f"{name}: all {count} answer")
        age_s = facts["newest_age_s"]
        if age_s is not None and age_s < -CLOCK_TOLERANCE_S:
            found = f"{name}: the IOC's clock is {-age_s:.1f} s ahead of this host's"
            yield wrong("clock", found, "synchronize both (NTP)")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
