"""What the DHS tells people, supervisors and Prometheus: ``GET /health`` and ``GET /metrics``."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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

from skywright.instruments.loop.camera import LOST_CAUSES, Camera
from skywright.instruments.loop.dhs.server import Server

PREFIX = "skywright_dhs_"
FATES = ("received", "analysed", "failed", "skipped", "undecodable", "doubled")


@dataclass(frozen=True)
class Status:
    """Where the state of a DHS is read.

    Parameters
    ----------
    server, camera
        Of the DHS.
    series
        Returns the series under way, or the last one: its ``key`` (``operation:handle``; empty
        before the first), whether it is ``running``, the number of pictures ``expected`` (0:
        unknown) and, after the first, of each of `FATES`.
    trouble
        Returns why the detector cannot be used at present; empty if it can. May take 1 s.
    is_ready
        Returns whether pictures can be searched.
    facts
        Addresses and directories, for people.
    """

    server: Server
    camera: Camera
    series: Callable[[], Mapping[str, Any]]
    trouble: Callable[[], str]
    is_ready: Callable[[], bool]
    facts: Mapping[str, Any]

    def health(self) -> dict[str, Any]:
        """Return the state; ``status`` is ``ok``, ``warming up`` or what is wrong."""
        trouble = self.trouble()
        camera = self.camera.state()
        if not self.is_ready():
            status = "warming up"
        elif not self.server.registered:
            status = "DCSS is not connected, or has registered no operation"
        else:
            status = trouble or "ok"
        return {
            "status": status,
            "name": self.server.name,
            "registered": self.server.registered,
            "ready": self.is_ready(),
            "detector": trouble or "ok",
            "operations": dict(self.server.counts),
            "series": self.series(),
            "pictures": camera.frames,
            "lost": dict(zip(LOST_CAUSES, camera.lost, strict=True)),
            **self.facts,
        }


class _Counts(Collector):
    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status
        camera, series = status.camera.state(), status.series()
        for name, text, flag in (
            ("registered", "1 while DCSS has registered operations", status.server.registered),
            ("ready", "1 when pictures can be searched", status.is_ready()),
            ("series_running", "1 during a series", series["running"]),
        ):
            yield GaugeMetricFamily(PREFIX + name, text, value=float(flag))
        yield CounterMetricFamily(PREFIX + "pictures", "pictures taken", value=float(camera.frames))
        lost = dict(zip(LOST_CAUSES, camera.lost, strict=True))
        fates = {fate: series[fate] for fate in FATES if fate in series}
        number, level = CounterMetricFamily, GaugeMetricFamily
        for kind, name, text, label, counts in (
            (number, "operations", "operations of DCSS, by their end", "end", status.server.counts),
            (number, "lost", "pictures lost, by cause", "cause", lost),
            (level, "series_pictures", "pictures of the last series, by fate", "fate", fates),
        ):
            family = kind(PREFIX + name, text, labels=[label])
            for value, count in sorted(counts.items()):
                family.add_metric([value], float(count))
            yield family


def status_app(status: Status) -> Starlette:
    """Return the application with ``/health`` and ``/metrics``.

    ``/health`` answers 200 when the DHS can do its work, else 503 with the same JSON.
    """
    registry = CollectorRegistry()
    registry.register(_Counts(status))

    async def health(request: Request) -> Response:
        found = await run_in_threadpool(status.health)
        return JSONResponse(found, 200 if found["status"] == "ok" else 503)

    async def metrics(request: Request) -> Response:
        body = await run_in_threadpool(generate_latest, registry)
        return Response(body, media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/health", health), Route("/metrics", metrics)])
