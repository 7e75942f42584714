"""Change what the IOC of the shots does: ``python -m dashboard.sacla.operate_worker --prefix P``.

It prints what the IOC has afterwards as JSON: the regions, and the message if they were refused.
Regions are added and removed by name to those that the IOC has, never put as a whole: the page,
and other pages, may show older ones.
"""

import argparse
import json
import sys

from devices.sacla.operated import LIMIT_S, OperatedShots


def main() -> None:
    """Put, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", required=True, help="PV prefix of the IOC, with its colon")
    parser.add_argument("--add", metavar="DETECTOR:x,y;x,y;...", help="add a region")
    parser.add_argument("--remove", metavar="NAME", help="remove a region")
    parser.add_argument("--show", metavar="DETECTOR", help="whose images are shown")
    parser.add_argument("--plot", metavar="NAME", help="region of the plots of single shots")
    parser.add_argument("--reset", action="store_true", help="begin curves and images anew")
    parser.add_argument("--run", type=int, choices=(0, 1), help="stop, or take shots")
    sys.stdout.write(json.dumps(operate(parser.parse_args())) + "\n")


def operate(options: argparse.Namespace) -> dict[str, str]:
    """Do what is asked; return the regions that hold then, and an error."""
    shots = OperatedShots(options.prefix, name="operated")
    wrong = ""
    try:
        shots.wait_for_connection(timeout=LIMIT_S)
        if options.add is not None:
            detector, _, corners = options.add.partition(":")
            wrong = shots.add_region(detector, corners)
        if options.remove is not None:
            wrong = wrong or shots.remove_region(options.remove)
        if options.show is not None:
            wrong = wrong or shots.show(options.show)
        if options.plot is not None:
            wrong = wrong or shots.plot(options.plot)
        if options.reset:
            shots.reset()
        if options.run is not None:
            shots.run(bool(options.run))
        return {"regions": shots.regions_now(), "error": wrong}
    except TimeoutError:
        return {"error": "the IOC does not answer"}


if __name__ == "__main__":
    main()
