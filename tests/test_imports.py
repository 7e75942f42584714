"""Every module can be imported: mypy ignores imports of modules that do not exist."""

import subprocess
import sys
from pathlib import Path

CODE = """
import importlib, pkgutil
for name in ("skywright", "iocs", "devices", "plans", "dashboard"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if module.name.endswith("__main__") or ".migrations." in module.name:
            continue  # these run when they are imported
        try:
            importlib.import_module(module.name)
        except Exception as error:
            print(f"{module.name}: {type(error).__name__}: {error}")
"""


def test_every_module_can_be_imported(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CODE]
    # The ASGI module of EPU makes its database in the working directory.
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280
    )
    assert (done.stdout, done.returncode) == ("", 0), done.stderr
