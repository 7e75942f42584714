"""A parser of command lines: a mistake is one line that names the nearest option."""

import argparse
import re
from difflib import get_close_matches
from typing import NoReturn

UNKNOWN = re.compile(r"unrecognized arguments: .*?(--[\w-]+)")


class OptionParser(argparse.ArgumentParser):
    """As `argparse.ArgumentParser`; a mistake ends the program with status 2 and one line."""

    def error(self, message: str) -> NoReturn:
        """Write what is wrong, without all options, and exit."""
        if unknown := UNKNOWN.match(message):
            near = get_close_matches(unknown[1], self._option_string_actions, 1)
            message += f"; did you mean {near[0]}?" if near else ""
        self.exit(2, f"{self.prog}: {message} (--help lists all options)\n")
