"""The arrows between the rooms (pyproject.toml, tool.importlinter) hold."""

import subprocess
import sys
from pathlib import Path

import grimp

from skywright.instruments import instruments


def test_import_contracts_hold() -> None:
    lint = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr


def test_no_common_module_imports_an_instrument_and_no_instrument_another_one() -> None:
    rooms = ("skywright", "iocs", "devices", "plans", "dashboard")
    graph = grimp.build_graph(*rooms)
    names = set(instruments())
    entries = {
        ioc.module: name
        for name, instrument in instruments().items()
        for ioc in instrument.iocs.values()
    }

    def owner(module: str) -> str | None:
        if module in entries:
            return entries[module]
        parts = module.removeprefix("skywright.instruments.").split(".")
        is_inside = module.startswith("skywright.instruments.")
        name = parts[0] if is_inside else parts[1] if len(parts) > 1 else ""
        return name if name in names else None

    wrong = [
        f"{module} -> {imported}"
        for module in sorted(graph.modules)
        for imported in sorted(graph.find_modules_directly_imported_by(module))
        if owner(imported) not in (None, owner(module))
    ]
    assert wrong == []
