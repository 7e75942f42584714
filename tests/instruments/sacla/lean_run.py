"""Runs a script, or the code cells of a notebook, where only the extra ``sacla`` is installed.

python lean_run.py FILE ARGUMENTS...
"""

import json
import runpy
import sys
from pathlib import Path

ABSENT = {
    "aio_pika", "anyio", "bluesky", "bluesky_tiled_plugins", "caproto", "dask", "databroker",
    "distributed", "epics", "event_model", "fastapi", "grpc", "httpx", "ophyd", "skimage",
    "sqlalchemy", "starlette", "tiled", "uvicorn", "zarr", "zmq",
}  # fmt: skip


class Absent:
    """Finds none of the packages of other extras."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


if __name__ == "__main__":
    sys.meta_path.insert(0, Absent())
    file = Path(sys.argv[1])
    sys.argv = sys.argv[1:]
    if file.suffix == ".ipynb":
        cells = json.loads(file.read_text())["cells"]
        names = {"__name__": "__main__"}
        for number, cell in enumerate(cells):
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"{file.name}[{number}]", "exec"), names)
        import matplotlib.pyplot as plt

        print("figures", len(plt.get_fignums()))
    else:
        runpy.run_path(str(file), run_name="__main__")
