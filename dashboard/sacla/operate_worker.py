"""Change what the IOC of the shots does: ``python -m dashboard.sacla.operate_worker --prefix P``.

It prints what the IOC has afterwards as JSON: the regions, and the message if they were refused.
Regions are added and removed by name to those that the IOC has, never put as a whole: the page,
and other pages, may show older ones.
"""

import json
from collections.abc import Mapping
from typing import Any

from dashboard.worker_process import argument_parser
from devices.guarded import is_ioc_lost
from devices.sacla.operated import LIMIT_S, OperatedShots
from skywright.processes.child import keep_stdout


def main() -> None:
    """Put, and print the result."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--request", type=json.loads, required=True, help="JSON, as dashboard.sacla.view has it"
    )
    options = parser.parse_args()
    with keep_stdout() as answer:
        answer.write(json.dumps(operate(options.prefix, options.request)).encode())


def operate(prefix: str, request: Mapping[str, Any]) -> dict[str, str]:
    """Do what is asked; return the regions that hold then, and an error."""
    shots = OperatedShots(prefix, name="operated")
    changes = {
        "add": lambda region: shots.add_region(*region.split(":", 1)),
        "remove": shots.remove_region,
        "show": shots.show,
        "plot": shots.plot,
    }
    wrong = ""
    try:
        shots.wait_for_connection(timeout=LIMIT_S)
        for name, change in changes.items():
            if name in request and not wrong:
                wrong = change(request[name])
        if request.get("reset") and not wrong:
            wrong = shots.reset()
        if "run" in request and not wrong:
            wrong = shots.run(request["run"])
        return {"regions": shots.regions_now(), "error": wrong}
    except Exception as error:
        if not is_ioc_lost(error):
            raise
        return {"error": "the IOC does not answer"}


if __name__ == "__main__":
    main()
