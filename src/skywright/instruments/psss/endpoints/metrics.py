"""Metrics of the service for Prometheus, read from the owner at each request.

A counter of losses keeps its greatest value: a number of the owner can fall, for example when a
lower rate of the machine explains pulse ids that seemed to be missing, and Prometheus takes a fall
for a restart and adds the whole new number. `/health` has the present numbers.
"""

import threading
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from skywright.instruments.psss.processor import Processor

PREFIX = "skywright_psss_"


class _Pulses(Collector):
    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self._greatest: dict[str, dict[str, int]] = {"lost": {}, "unsent": {}, "failures": {}}
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        with self._lock:  # requests are answered on several threads
            state = self.processor.state()
            for name, known in self._greatest.items():
                for cause, count in getattr(state, name).items():
                    known[cause] = max(count, known.get(cause, 0))
            counters = {name: sorted(known.items()) for name, known in self._greatest.items()}
        statistics = self.processor.statistics
        processed, sent = statistics.counts
        gauges: list[tuple[str, str, float]] = [
            ("processing", "1 while the processing is started", state.running),
            ("alarm", "1 when somebody should act", state.alarm),
            ("rate_hz", "pulses a second", statistics.rate_hz),
            ("processed_images", "pulses since the last start, with or without picture", processed),
            ("sent_images", "results sent since the last start", sent),
            ("settings_number", "changes of settings", state.settings_number),
        ]
        if (newest := state.newest) is not None:
            gauges += [
                ("pulse_id", "of the last pulse", newest.pulse.pulse_id),
                ("processing_duration_ms", "of the last pulse", newest.duration_ms),
                ("fit_status", "of the last pulse, 0 is OK", newest.spectrum.status),
                ("center", "of the last fit, eV or pixels", newest.spectrum.center),
                ("fwhm", "of the last fit, eV or pixels", newest.spectrum.fwhm),
            ]
        for name, text, value in gauges:
            yield GaugeMetricFamily(PREFIX + name, text, value=float(value))
        yield CounterMetricFamily(PREFIX + "pulses", "pulses taken", value=float(state.items))
        for name, text in (
            ("lost", "pulses lost, by cause"),
            ("unsent", "results and separate pictures that could not be sent, by cause"),
            ("failures", "what else failed, by cause"),
        ):
            family = CounterMetricFamily(PREFIX + name, text, labels=["cause"])
            for cause, count in counters[name]:
                family.add_metric([cause], float(count))
            yield family


def make_registry(processor: Processor) -> CollectorRegistry:
    """Return the registry for `prometheus_client.generate_latest`."""
    registry = CollectorRegistry()
    registry.register(_Pulses(processor))
    return registry
