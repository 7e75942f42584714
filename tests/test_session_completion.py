"""Completion by the Tab key in the console."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from IPython.core.completer import ProvisionalCompleterWarning
from IPython.core.interactiveshell import InteractiveShell

from skywright.session.completion import complete_items


class Run:
    def __init__(self) -> None:
        self.primary, self.baseline = 1, 2


class Catalog(Mapping[int, Any]):
    """As the client of a catalog: its items are known when they are asked for."""

    def __getitem__(self, key: int) -> Any:
        return globals()["Run"]()

    def __iter__(self) -> Iterator[int]:
        return iter([0])

    def __len__(self) -> int:
        return 1


class Device:
    """Nobody has allowed to ask it for items."""

    def __getitem__(self, key: int) -> Any:
        raise AssertionError("it moves")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("cat[-1].", {"primary", "baseline"}),
        ("cat[-1].pri", {"primary"}),
        ("runs[0].", {"primary", "baseline"}),
        ("device[0].", set()),
    ],
)
def test_an_item_of_a_catalog_is_completed(line: str, found: set[str]) -> None:
    shell = InteractiveShell()
    shell.user_ns.update(cat=Catalog(), runs=[Run()], device=Device())
    complete_items(shell, shell.user_ns["cat"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProvisionalCompleterWarning)
        names = [each.text.lstrip(".") for each in shell.Completer.completions(line, len(line))]
    assert {name for name in names if name in ("primary", "baseline")} == found
