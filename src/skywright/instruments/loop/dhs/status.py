"""What the DHS tells people, supervisors and Prometheus: ``GET /health`` and ``GET /metrics``."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from skywright.instruments.loop.dhs.collection import FATES

PREFIX = "skywright_dhs_"

State = Callable[[], Mapping[str, Any]]


class _Counts(Collector):
    def __init__(self, state: State) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        state = self._state()
        series = state["series"]
        for name, text, flag in (
            ("registered", "1 while DCSS has registered operations", state["registered"]),
            ("ready", "1 when pictures can be searched", state["ready"]),
            ("series_running", "1 during a series", series["running"]),
        ):
            yield GaugeMetricFamily(PREFIX + name, text, value=float(flag))
        yield CounterMetricFamily(PREFIX + "pictures", "pictures taken", float(state["pictures"]))
        fates = {fate: series[fate] for fate in FATES if fate in series}
        number, level = CounterMetricFamily, GaugeMetricFamily
        for kind, name, text, label, counts in (
            (number, "operations", "operations of DCSS, by their end", "end", state["operations"]),
            (number, "lost", "pictures lost, by cause", "cause", state["lost"]),
            (level, "series_pictures", "pictures of the last series, by fate", "fate", fates),
        ):
            family = kind(PREFIX + name, text, labels=[label])
            for value, count in sorted(counts.items()):
                family.add_metric([value], float(count))
            yield family


def status_app(state: State, trouble: Callable[[], str], facts: Mapping[str, Any]) -> Starlette:
    """Return the application with ``/health`` and ``/metrics``.

    ``/health`` answers 200 when the DHS can do its work, else 503 with the same JSON; its
    ``status`` is ``ok``, ``warming up`` or what is wrong.

    Parameters
    ----------
    state, trouble
        `Dhs.state`, and `Detector.trouble`, which may take 1 s.
    facts
        Addresses and directories, for people.
    """
    registry = CollectorRegistry()
    registry.register(_Counts(state))

    def found() -> dict[str, Any]:
        wrong, present = trouble(), state()
        if not present["ready"]:
            status = "warming up"
        elif not present["registered"]:
            status = "DCSS is not connected, or has registered no operation"
        else:
            status = wrong or "ok"
        return {"status": status, "detector": wrong or "ok", **present, **facts}

    async def health(request: Request) -> Response:
        answer = await run_in_threadpool(found)
        return JSONResponse(answer, 200 if answer["status"] == "ok" else 503)

    async def metrics(request: Request) -> Response:
        body = await run_in_threadpool(generate_latest, registry)
        return Response(body, media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/health", health), Route("/metrics", metrics)])
