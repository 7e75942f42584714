"""Analysis on a Dask cluster: what it prints."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
from skywright.analysis.cluster import cluster
from skywright.processes.logs import log_to_stderr

if __name__ == "__main__":  # processes of the cluster import this file
    log_to_stderr({verbosity})
    with cluster("local") as submit:
        print(submit(abs, -3).result())
"""


def test_a_local_cluster_logs_no_messages_of_its_own_operation(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    for verbosity in (0, 1):
        script.write_text(SCRIPT.format(verbosity=verbosity))
        run = subprocess.run(
            [sys.executable, script], capture_output=True, text=True, timeout=120, check=False
        )
        assert (run.stdout, run.stderr, run.returncode) == ("3\n", "", 0)
