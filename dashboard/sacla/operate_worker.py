"""Change what the IOC of the shots does: ``python -m dashboard.sacla.operate_worker --prefix P``.

It answers each request with what the IOC has afterwards: the regions, and the message if they were
refused. Regions are added and removed by name to those that the IOC has, never put as a whole: the
page, and other pages, may show older ones.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from dashboard.worker_process import answer_requests, argument_parser
from devices.guarded import is_ioc_lost
from devices.sacla.operated import LIMIT_S, OperatedShots


def main() -> None:
    """Run the worker."""
    options = argument_parser(__doc__).parse_args()
    answer_requests(partial(operate, options.prefix))


def operate(prefix: str, request: Mapping[str, Any]) -> dict[str, str]:
    """Carry out a request, see `dashboard.sacla.view.OperateRequest`.

    Return the regions that hold then, and an error.
    """
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
    finally:
        shots.destroy()  # lost channels are searched for less and less often, new ones at once


if __name__ == "__main__":
    main()
