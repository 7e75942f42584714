"""The supervisor, with small real processes that start, die, hang and refuse to die."""

import asyncio
import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from skywright.errors import HardwareError
from skywright.processes import supervisor as supervisor_module
from skywright.processes.ports import free_port
from skywright.processes.supervisor import Service, Supervisor, _ending, _spawn

READY = """
import os, signal, subprocess, sys, threading
from skywright.processes.lifecycle import announce_ready, end_with_parent
"""
SERVE = READY + "end_with_parent(); announce_ready(port=7); signal.pause()"
STUBBORN = READY + "signal.signal(signal.SIGTERM, signal.SIG_IGN); announce_ready(); signal.pause()"
DEAD_AT_ONCE = "import sys; print('cannot open the camera', file=sys.stderr); sys.exit(3)"
SILENT = "import signal; signal.pause()"
HTTP_SERVER = (
    READY
    + """
from http.server import HTTPServer, SimpleHTTPRequestHandler
server = HTTPServer(("127.0.0.1", int(sys.argv[1])), SimpleHTTPRequestHandler)
end_with_parent()
announce_ready()
server.serve_forever()
"""
)
WITH_GRANDCHILD = (
    READY
    + """
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
announce_ready(grandchild=child.pid)
os.read(0, 1)
"""
)
NOISY = (
    READY + "announce_ready(); sys.stdout.write('x' * 1_000_000); sys.stdout.flush(); os._exit(5)"
)


def service(name: str, code: str, **options: Any) -> Service:
    options.setdefault("backoff_s", (0.01, 0.05))
    return Service(name, [sys.executable, "-c", code], **options)


class Reports(list[tuple[str, str]]):
    """What the supervisor said, and a way to await the next matching line."""

    def __init__(self) -> None:
        self.news = asyncio.Event()

    def __call__(self, name: str, line: str) -> None:
        self.append((name, line))
        self.news.set()

    def about(self, name: str, text: str) -> list[str]:
        return [line for who, line in self if who == name and text in line]

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 60)


def supervised(
    directory: Path,
    services: list[Service],
    test: Callable[[Supervisor, Reports], Coroutine[Any, Any, None]],
    changed: Callable[[], None] = lambda: None,
) -> None:
    """Run `test` beside a started supervisor, stop it, and see that nothing is left."""

    async def main() -> None:
        reports = Reports()
        supervisor = Supervisor(services, directory / "logs", reports, changed)
        try:
            await supervisor.start()
            await test(supervisor, reports)
        finally:
            await supervisor.stop()

    before = set(psutil.Process().children(recursive=True))
    asyncio.run(main())
    assert set(psutil.Process().children(recursive=True)) <= before


def test_all_are_ready_when_start_returns(tmp_path: Path) -> None:
    async def test(supervisor: Supervisor, reports: Reports) -> None:
        assert set(supervisor.ready_children) == {"a", "b"}
        assert supervisor.ready_children["a"].ready == {"port": 7}
        assert psutil.Process(supervisor.ready_children["b"].pid).is_running()
        assert len(reports.about("a", "ready: port 7")) == 1

    supervised(tmp_path, [service("a", SERVE), service("b", SERVE)], test)


def test_a_start_that_has_too_few_descriptors_leaves_none_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = os.pipe()
    pipes = [ends]

    def pipe() -> tuple[int, int]:
        if not pipes:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return pipes.pop()

    async def main() -> None:
        monkeypatch.setattr(os, "pipe", pipe)
        with (tmp_path / "log").open("wb") as log, pytest.raises(OSError, match="open files"):
            await _spawn(service("a", SERVE), log)

    asyncio.run(main())
    for end in ends:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(end)


def test_a_child_that_has_just_been_started_is_stopped(tmp_path: Path) -> None:
    async def main() -> None:
        for turns in range(1, 20):  # of the loop, before the stop
            supervisor = Supervisor([service("a", SILENT, ready_line=False)], tmp_path, Reports())
            starting = asyncio.create_task(supervisor.start())
            for _ in range(turns):
                await asyncio.sleep(0)
            await supervisor.stop()
            await asyncio.gather(starting, return_exceptions=True)

    before = set(psutil.Process().children())
    asyncio.run(main())
    assert set(psutil.Process().children()) <= before


@pytest.mark.skipif(supervisor_module.PRCTL is None, reason="a function of Linux")
def test_a_child_whose_parent_ends_at_once_does_not_begin() -> None:
    parent_that_has_ended = 0
    begin = partial(supervisor_module._end_with_parent, parent_that_has_ended)
    assert subprocess.run(["true"], preexec_fn=begin, check=False).returncode == 1


@pytest.mark.skipif(supervisor_module.PRCTL is None, reason="a function of Linux")
def test_a_child_can_be_terminated_whatever_its_parent_does_with_the_signal() -> None:
    """A child inherits that a signal is ignored, and the kernel's at the parent's end too."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        begin = partial(supervisor_module._end_with_parent, os.getpid())
        killed = ["sh", "-c", "kill $$; exit 0"]
        assert subprocess.run(killed, preexec_fn=begin, check=False).returncode == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_child_without_a_ready_line_is_ready_with_no_facts(tmp_path: Path) -> None:
    async def test(_supervisor: Supervisor, reports: Reports) -> None:
        (line,) = reports.about("a", "ready")
        assert re.fullmatch(r"ready \(process \d+\)", line)

    supervised(tmp_path, [service("a", SERVE, ready_line=False)], test)


def test_a_child_is_stopped_before_the_one_it_needs(tmp_path: Path) -> None:
    """The one that needs the other must find it alive to the end."""
    note = tmp_path / "note"
    last_look = (
        READY
        + f"""
def look(*_):
    os.kill(int(open({str(note)!r}).read()), 0)
    open({str(note)!r}, "w").write("seen alive")
    sys.exit(0)
signal.signal(signal.SIGTERM, look)
announce_ready()
while True: signal.pause()
"""
    )

    async def test(supervisor: Supervisor, reports: Reports) -> None:
        note.write_text(str(supervisor.ready_children["base"].pid))

    supervised(
        tmp_path, [service("base", SERVE), service("needs_it", last_look, stop_before="base")], test
    )
    assert note.read_text() == "seen alive"


def test_a_killed_child_is_named_and_restarted_with_its_count(tmp_path: Path) -> None:
    changes: list[int] = []

    async def test(supervisor: Supervisor, reports: Reports) -> None:
        for count in (1, 2, 3):
            os.kill(supervisor.ready_children["a"].pid, signal.SIGKILL)
            await reports.until(lambda count=count: len(reports.about("a", "ready")) == count + 1)
            assert supervisor.ready_children["a"].restarts == count
        named = reports.about("a", "was killed by SIGKILL")
        assert [line.rsplit(" in ", 1)[1] for line in named] == ["0.01 s", "0.02 s", "0.03 s"]

    limited = service("a", SERVE, backoff_s=(0.01, 0.03))
    supervised(tmp_path, [limited], test, lambda: changes.append(1))
    assert len(changes) == 7  # four starts, three deaths


def test_a_server_that_no_longer_answers_is_killed_and_restarted(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-c", HTTP_SERVER, str(port)]
    limits = {"answer_limit_s": 0.5, "backoff_s": (0.01, 0.05)}
    server = Service("a", command, port=port, answers_http=True, **limits)

    async def test(supervisor: Supervisor, reports: Reports) -> None:
        os.kill(supervisor.ready_children["a"].pid, signal.SIGSTOP)
        await reports.until(lambda: len(reports.about("a", "ready")) == 2)
        assert len(reports.about("a", "has not answered for 2 s and is killed")) == 1
        assert len(reports.about("a", "was killed by SIGKILL")) == 1

    supervised(tmp_path, [server], test)


def test_a_server_that_does_not_answer_for_a_while_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False] * (supervisor_module.UNANSWERED_MAX - 1) + [True] + [False] * 2)
    all_asked = asyncio.Event()

    async def answer(port: int, limit_s: float) -> bool:
        assert (port, limit_s) == (7, 0.01)
        if (found := next(answers, None)) is None:
            all_asked.set()
        return found is not False

    monkeypatch.setattr(supervisor_module, "_answers", answer)

    async def test(supervisor: Supervisor, reports: Reports) -> None:
        await all_asked.wait()
        assert not reports.about("a", "killed")

    supervised(
        tmp_path, [service("a", SERVE, port=7, answers_http=True, answer_limit_s=0.01)], test
    )


def test_a_signal_without_a_name_is_a_number() -> None:
    assert _ending(-signal.SIGKILL) == "was killed by SIGKILL"
    assert _ending(-40) == "was killed by signal 40"


def test_an_ended_child_gets_no_further_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may give its process id to another program."""
    signalled: list[int] = []
    killpg = os.killpg

    def noting(group: int, number: int) -> None:
        signalled.append(group)
        killpg(group, number)

    async def test(supervisor: Supervisor, reports: Reports) -> None:
        os.kill(supervisor.ready_children["a"].pid, signal.SIGKILL)
        await reports.until(lambda: bool(reports.about("a", "restarting")))
        monkeypatch.setattr(os, "killpg", noting)

    supervised(tmp_path, [service("a", SERVE, backoff_s=(60.0, 60.0))], test)
    assert signalled == []


def test_back_off_starts_anew_after_a_settled_run(tmp_path: Path) -> None:
    async def test(supervisor: Supervisor, reports: Reports) -> None:
        for count in (1, 2):
            os.kill(supervisor.ready_children["a"].pid, signal.SIGKILL)
            await reports.until(lambda count=count: len(reports.about("a", "ready")) == count + 1)
        assert len(reports.about("a", "restarting in 0.01 s")) == 2

    supervised(tmp_path, [service("a", SERVE, backoff_reset_s=0.0)], test)


def test_a_restarted_child_that_fails_to_start_is_tried_again(tmp_path: Path) -> None:
    marker = tmp_path / "started"
    once = f"""
import pathlib
marker = pathlib.Path({str(marker)!r})
tries = len(marker.read_text()) if marker.exists() else 0
marker.write_text("x" * (tries + 1))
if tries in (1, 2): sys.exit(f"no camera, try {{tries}}")
announce_ready(); signal.pause()
"""

    async def test(supervisor: Supervisor, reports: Reports) -> None:
        os.kill(supervisor.ready_children["a"].pid, signal.SIGKILL)
        await reports.until(lambda: len(reports.about("a", "ready")) == 2)
        assert len(reports.about("a", "no camera, try 1")) == 1
        assert len(reports.about("a", "exit status 1; last log line: no camera, try 2")) == 1
        assert supervisor.ready_children["a"].restarts == 3

    supervised(tmp_path, [service("a", READY + once)], test)


def test_the_last_log_line_is_none_of_an_earlier_child(tmp_path: Path) -> None:
    marker = tmp_path / "started"
    code = f"""
import pathlib
marker = pathlib.Path({str(marker)!r})
if marker.exists(): os._exit(4)
marker.touch()
print("the lens is lost", file=sys.stderr, flush=True)
announce_ready(); os._exit(3)
"""

    async def test(supervisor: Supervisor, reports: Reports) -> None:
        await reports.until(lambda: bool(reports.about("a", "exit status 4")))
        assert reports.about("a", "exit status 3; last log line: the lens is lost")
        assert reports.about("a", "exit status 4; last log line: nothing")

    supervised(tmp_path, [service("a", READY + code)], test)


def test_a_child_dead_before_it_was_ready_ends_the_start(tmp_path: Path) -> None:
    async def test(supervisor: Supervisor, reports: Reports) -> None:
        raise AssertionError("start must not return")

    with pytest.raises(HardwareError, match=r"b ended with exit status 3.*cannot open the camera"):
        supervised(tmp_path, [service("a", SERVE), service("b", DEAD_AT_ONCE)], test)


def test_a_child_dead_before_it_was_ready_is_noticed_though_what_it_started_lives(
    tmp_path: Path,
) -> None:
    code = WITH_GRANDCHILD.replace("announce_ready(grandchild=child.pid)", "os._exit(3)")
    limits = {"late_s": 20.0, "ready_limit_s": 30.0}
    with pytest.raises(HardwareError, match="a ended with exit status 3"):
        supervised(tmp_path, [service("a", code, **limits)], lambda *_: None)


def test_a_ready_line_is_read_though_the_end_of_its_child_is_known_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor_module, "LAST_LINE_S", 60.0)

    async def end() -> int:
        return 3

    async def main() -> None:
        stdout = asyncio.StreamReader()
        process: Any = SimpleNamespace(handle=SimpleNamespace(wait=end), stdout=stdout)
        line = b'{"ready": {"port": 7}}\n'
        asyncio.get_running_loop().call_later(0.01, stdout.feed_data, line)
        assert await supervisor_module._facts_or_end(process) == {"port": 7}

    asyncio.run(main())


def test_a_start_goes_on_without_a_child_that_is_dead_and_tries_it_again(tmp_path: Path) -> None:
    marker = tmp_path / "camera"
    code = f"""
import pathlib
if not pathlib.Path({str(marker)!r}).exists(): sys.exit("cannot open the camera")
announce_ready(); signal.pause()
"""

    async def test(supervisor: Supervisor, reports: Reports) -> None:
        assert supervisor.not_ready == ["dead"]
        assert set(supervisor.ready_children) == {"quick"}
        assert reports.about("dead", "exit status 1; last log line: cannot open the camera")
        marker.touch()
        await reports.until(lambda: bool(reports.about("dead", "ready")))
        assert supervisor.not_ready == []

    dead = service("dead", READY + code, may_be_late=True)
    supervised(tmp_path, [service("quick", SERVE), dead], test)


def test_a_wrong_configuration_ends_the_start(tmp_path: Path) -> None:
    code = "import sys; print('no such key', file=sys.stderr); sys.exit(2)"
    with pytest.raises(HardwareError, match=r"a ended with exit status 2.*no such key"):
        supervised(tmp_path, [service("a", code, may_be_late=True)], lambda *_: None)


def test_a_program_that_is_no_server_ends_the_start(tmp_path: Path) -> None:
    words = r"a ended with exit status 0 before it was ready: is it a server\?"
    with pytest.raises(HardwareError, match=words):
        supervised(tmp_path, [service("a", "pass", may_be_late=True)], lambda *_: None)


def test_a_silent_child_ends_the_start_at_its_limit(tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match=r"a did not say that it is ready within 0.3 s"):
        supervised(tmp_path, [service("a", SILENT, late_s=0.1, ready_limit_s=0.3)], lambda *_: None)


def test_a_start_goes_on_without_a_child_that_may_be_late(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    code = f"open({str(gate)!r}).read()\n{SERVE}"
    slow = service("slow", code, slow_s=0.1, late_s=0.2, may_be_late=True)

    async def test(supervisor: Supervisor, reports: Reports) -> None:
        assert supervisor.not_ready == ["slow"]
        assert set(supervisor.ready_children) == {"quick"}
        assert reports.about("slow", "is still starting after 0.1 s; last log line: ")
        assert reports.about("slow", "is not ready after")
        gate.write_bytes(b"")  # the child reads to the end, and goes on
        await reports.until(lambda: bool(reports.about("slow", "ready: port 7")))
        assert supervisor.not_ready == []

    supervised(tmp_path, [service("quick", SERVE), slow], test)


def test_a_child_that_closes_its_stdout_ends_the_start_at_its_limit(tmp_path: Path) -> None:
    code = "import os, signal; os.close(1); signal.pause()"
    with pytest.raises(HardwareError, match=r"a did not say that it is ready within 1 s"):
        supervised(tmp_path, [service("a", code, late_s=0.5, ready_limit_s=1.0)], lambda *_: None)


def test_a_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match=r"a cannot be started: .*no-such-command"):
        supervised(tmp_path, [Service("a", ["/no-such-command"])], lambda *_: None)


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    pids: list[int] = []

    async def test(supervisor: Supervisor, reports: Reports) -> None:
        pids.append(supervisor.ready_children["a"].pid)

    supervised(tmp_path, [service("a", STUBBORN)], test)
    assert not psutil.pid_exists(pids[0])


def test_what_a_dead_child_started_dies_before_the_restart(tmp_path: Path) -> None:
    async def test(supervisor: Supervisor, reports: Reports) -> None:
        orphan = psutil.Process(supervisor.ready_children["a"].ready["grandchild"])
        os.kill(supervisor.ready_children["a"].pid, signal.SIGKILL)
        await reports.until(lambda: len(reports.about("a", "ready")) == 2)
        assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE

    supervised(tmp_path, [service("a", WITH_GRANDCHILD)], test)


def test_a_talkative_child_does_not_block(tmp_path: Path) -> None:
    async def test(supervisor: Supervisor, reports: Reports) -> None:
        await reports.until(lambda: bool(reports.about("a", "exit status 5")))

    supervised(tmp_path, [service("a", NOISY)], test)


@pytest.mark.parametrize(
    "output", ["'{\"ready\": true}\\n'", "'x' * 200_000 + '\\n'", "'[' * 60_000 + '\\n'"]
)
def test_what_a_child_says_before_its_ready_line_is_passed_over(
    tmp_path: Path, output: str
) -> None:
    code = READY + f"sys.stdout.write({output}); announce_ready(port=7); signal.pause()"

    async def test(supervisor: Supervisor, reports: Reports) -> None:
        assert supervisor.ready_children["a"].ready == {"port": 7}

    supervised(tmp_path, [service("a", code, ready_limit_s=60.0)], test)


def test_children_go_on_when_nobody_can_be_told(tmp_path: Path) -> None:
    """As when the disk is full to which the reports go, or the pipe's reader is gone."""

    async def main() -> None:
        seen = asyncio.Event()

        def report(name: str, line: str) -> None:
            if "restarting" in line:
                seen.set()
            raise BrokenPipeError

        supervisor = Supervisor([service("a", SERVE)], tmp_path / "logs", report)
        try:
            await supervisor.start()
            watch = asyncio.create_task(supervisor.watch())
            os.kill(supervisor.ready_children["a"].pid, signal.SIGKILL)
            await asyncio.wait_for(seen.wait(), 60)
            async with asyncio.timeout(60):
                while not supervisor.ready_children:
                    await asyncio.sleep(0.01)
            assert not watch.done()
            watch.cancel()
        finally:
            await supervisor.stop()

    asyncio.run(main())


def test_logs_are_kept_from_one_start_before(tmp_path: Path) -> None:
    async def test(supervisor: Supervisor, reports: Reports) -> None: ...

    for word in ("first", "second"):
        code = READY + f"print({word!r}, file=sys.stderr); announce_ready(); signal.pause()"
        supervised(tmp_path, [service("a", code)], test)
    assert (tmp_path / "logs" / "a.log").read_text() == "second\n"
    assert (tmp_path / "logs" / "a.log.1").read_text() == "first\n"


def test_children_run_without_a_log_when_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").mkdir()  # in the way, as a full disk would be
    (tmp_path / "logs" / "a.log.1").mkdir()
    (tmp_path / "logs" / "a.log.1" / "file").touch()

    async def test(supervisor: Supervisor, reports: Reports) -> None:
        assert len(reports.about("a", "runs without a log")) == 1

    supervised(tmp_path, [service("a", SERVE)], test)


def test_a_child_without_a_log_has_no_last_log_line(tmp_path: Path) -> None:
    (tmp_path / "logs" / "a.log.1").mkdir(parents=True)  # in the way
    (tmp_path / "logs" / "a.log").write_text("the lens was lost last week\n")

    async def test(supervisor: Supervisor, reports: Reports) -> None:
        raise AssertionError("start must not return")

    with pytest.raises(HardwareError, match="exit status 3; last log line: unknown"):
        supervised(tmp_path, [service("a", DEAD_AT_ONCE)], test)


def test_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    code = f"""
import asyncio, os, signal, sys
from pathlib import Path
from skywright.processes.supervisor import Service, Supervisor
async def main():
    service = Service("a", [sys.executable, "-c", {SERVE!r}])
    supervisor = Supervisor([service], Path({str(tmp_path)!r}), lambda *_: None)
    await supervisor.start()
    print(supervisor.ready_children["a"].pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    if psutil.pid_exists(pid):
        _, alive = psutil.wait_procs([psutil.Process(pid)], timeout=60)
        assert not alive
