"""Options of a benchmark on the command line; ``--help`` prints them and its docstring."""

import argparse


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that knows ``--help`` and refuses what it does not know.

    Parameters
    ----------
    description
        Docstring of the benchmark's module.
    """
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
