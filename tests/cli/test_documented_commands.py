"""The commands of the pages: a shell takes each as one command, and each option exists."""

import re
import shlex
from pathlib import Path

import pytest

from skywright import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def typed_commands(page: Path) -> list[str]:
    """Return what a page lets its reader type that begins with `skywright`."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.S | re.M)
    shell = [re.sub(r"\\\n\s*", " ", text) for kind, text in blocks if kind in ("", "console")]
    lines = [line for text in shell for line in text.splitlines()]
    typed = [
        re.match(r"(?:[$>] )?(?:SKYWRIGHT_\w+=\S+ )?(skywright [a-z].*)", line) for line in lines
    ]
    return [found[1] for found in typed if found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_of_a_page_can_be_typed(page: Path) -> None:
    for line in typed_commands(page):
        words = list(shlex.shlex(line, posix=True, punctuation_chars=True))
        assert not {";", "&", "|"} & set(words), f"{line}: quote what the shell would take"
        name, *rest = shlex.split(line, comments=True)[1:]
        command = cli.load(name)
        while rest and hasattr(command, "commands"):
            assert rest[0] in command.commands, line
            command, rest = command.commands[rest[0]], rest[1:]
        if command.context_settings.get("ignore_unknown_options"):
            continue  # its own parser reads them
        known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        given = {word.split("=")[0] for word in " ".join(rest).split(" -- ")[0].split()}
        unknown = {word for word in given if re.match(r"-[-a-z]", word)} - known
        assert unknown <= {"-v", "-vv", "--help"}, line


def test_commands_are_found() -> None:
    assert sum(len(typed_commands(page)) for page in PAGES) > 30
