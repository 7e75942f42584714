"""What a lean agent needs imports and runs without what only POSIX systems have.

The EPU agent runs on Windows. Here it is a Python from which those functions were taken out.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

TAKE_OUT = """
import asyncio, getpass, multiprocessing, os, shutil, signal, subprocess, sys

os_functions = ("statvfs", "nice", "getuid", "geteuid", "killpg", "getpgid", "setsid", "fork")
for name in os_functions:
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGSTOP", "SIGURG"):
    delattr(signal, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None  # an import of it fails

def disk_usage(path):
    return shutil._ntuple_diskusage(10**12, 0, 10**12)

shutil.disk_usage = disk_usage

def add_signal_handler(*_):
    raise NotImplementedError

asyncio.unix_events._UnixSelectorEventLoop.add_signal_handler = add_signal_handler
"""

RUN = """
import json, logging
from pathlib import Path

import numpy as np

import skywright.cli
import skywright.instruments.epu.agent.agent
import skywright.instruments.epu.cli_services
import skywright.instruments.epu.cli_watch
from skywright.config import load_settings, user_name
from skywright.files.columns import Column, ColumnReader, ColumnWriter
from skywright.processes.lifecycle import announce_ready, end_with_parent
from skywright.processes.logs import log_to_file, log_to_stderr
from skywright.processes.memory import return_large_arrays, share_arenas, trim_heaps

share_arenas()
return_large_arrays()
trim_heaps()
end_with_parent()
log_to_stderr(1)
log_to_file(Path("agent.log"))
logging.getLogger("skywright").warning("a line")
with ColumnWriter(Path("a.h5"), [Column("/x", "<f8")], Column("/number", "<i8")) as writer:
    writer.append(np.arange(3), {"/x": np.arange(3.0)})
with ColumnReader(Path("a.h5"), "/number") as reader:
    x = reader.read("/x").tolist()
announce_ready(x=x, user=user_name(), store=str(load_settings().directory))
"""


def test_configuration_columns_and_logs_need_nothing_of_posix(tmp_path: Path) -> None:
    names = ("LOGNAME", "USER", "LNAME", "USERNAME")  # without them passwd is asked
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", TAKE_OUT + RUN],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)["ready"]
    assert (facts["x"], facts["user"]) == ([0.0, 1.0, 2.0], "user")
    assert "a line" in (tmp_path / "agent.log").read_text()
