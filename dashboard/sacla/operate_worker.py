"""Put regions or a reset: ``python -m dashboard.sacla.operate_worker --prefix P --regions TEXT``.

It prints what the IOC has afterwards as JSON: the regions, and the message if they were refused.
"""

import argparse
import json
import sys

from devices.sacla.operated import LIMIT_S, OperatedShots


def main() -> None:
    """Put, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", required=True, help="PV prefix of the IOC, with its colon")
    parser.add_argument("--regions", help="NAME:DETECTOR:x,y;x,y;... with blanks between them")
    parser.add_argument("--reset", action="store_true", help="begin curves and images anew")
    parser.add_argument("--run", type=int, choices=(0, 1), help="stop, or take shots")
    options = parser.parse_args()
    answer = put(options.prefix, options.regions, options.reset, options.run)
    sys.stdout.write(json.dumps(answer) + "\n")


def put(prefix: str, regions: str | None, reset: bool, run: int | None) -> dict[str, str]:
    """Put what is given; return the regions that hold then, and an error."""
    shots = OperatedShots(prefix, name="operated")
    try:
        shots.wait_for_connection(timeout=LIMIT_S)
        wrong = "" if regions is None else shots.put_regions(regions)
        if reset:
            shots.reset()
        if run is not None:
            shots.run(bool(run))
        return {"regions": shots.regions_now(), "error": wrong}
    except TimeoutError:
        return {"error": "the IOC does not answer"}


if __name__ == "__main__":
    main()
