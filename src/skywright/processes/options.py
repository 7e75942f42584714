"""A parser of command lines: a mistake is one line that names the nearest option."""

import argparse
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

from skywright.arguments import did_you_mean

UNKNOWN = re.compile(r"unrecognized arguments: .*?(--[\w-]+)")


def positive_number(text: str) -> float:
    """Return an argument of the command line as a finite number above 0; a ``type`` of argparse.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is none; argparse says so with the argument's name.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return number


def speed_factor(text: str) -> float:
    """Return an argument as `positive_number` does, or infinity for ``inf``: without any pause."""
    return math.inf if text == "inf" else positive_number(text)


class OptionParser(argparse.ArgumentParser):
    """As `argparse.ArgumentParser`; a mistake ends the program with status 2 and one line."""

    def error(self, message: str) -> NoReturn:
        """Write what is wrong, without all options, and exit."""
        if unknown := UNKNOWN.match(message):
            hint = did_you_mean(unknown[1], self._option_string_actions)
            message += f"; {hint}" if hint else ""
        self.exit(2, f"{self.prog}: {message} (--help lists all options)\n")


def limited(kind: type[int] | type[float], least: float, most: float) -> Callable[[str], Any]:
    """Return a ``type`` of argparse for numbers of a kind from `least` to `most`."""

    def number(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(
                f"{text!r}: expected {what}, {least:,.10g} to {most:,.10g}"
            )
        return value

    return number


def add_number(
    parser: argparse.ArgumentParser,
    name: str,
    default: float,
    least: float,
    most: float,
    description: str,
) -> None:
    """Add an option that takes a number of the default's type, within limits.

    Parameters
    ----------
    parser
        The parser.
    name
        Name of the option, with its dashes.
    default, least, most
        Default, least and largest value.
    description
        What the number is, for the help; the default is appended.
    """
    kind = limited(type(default), least, most)
    parser.add_argument(name, type=kind, default=default, help=f"{description} (%(default)s)")
