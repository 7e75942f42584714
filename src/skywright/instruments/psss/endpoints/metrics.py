"""Metrics of the service for Prometheus, read from the owner at each request."""

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

    def collect(self) -> Iterator[Metric]:
        state = self.processor.state()
        statistics = self.processor.statistics
        processed, sent = statistics.counts
        for name, text, value in (
            ("processing", "1 while the processing is started", state.running),
            ("alarm", "1 when somebody should act", state.alarm),
            ("rate_hz", "pulses a second", statistics.rate_hz),
            ("processed_images", "pulses since the last start, with or without picture", processed),
            ("sent_images", "results sent since the last start", sent),
            ("settings_number", "changes of settings", state.settings_number),
        ):
            yield GaugeMetricFamily(PREFIX + name, text, value=float(value))
        newest = state.newest
        if newest is not None:
            for name, text, value in (
                ("pulse_id", "of the last pulse", newest.pulse.pulse_id),
                ("processing_duration_ms", "of the last pulse", newest.duration_ms),
                ("fit_status", "of the last pulse, 0 is OK", newest.spectrum.status),
                ("center", "of the last fit, eV or pixels", newest.spectrum.center),
                ("fwhm", "of the last fit, eV or pixels", newest.spectrum.fwhm),
            ):
                yield GaugeMetricFamily(PREFIX + name, text, value=float(value))
        yield CounterMetricFamily(PREFIX + "pulses", "pulses taken", value=float(state.items))
        for name, text, counts in (
            ("lost", "pulses lost, by cause", state.lost),
            ("unsent", "results that could not be sent, by cause", state.unsent),
            ("failures", "what else failed, by cause", state.failures),
        ):
            family = CounterMetricFamily(PREFIX + name, text, labels=["cause"])
            for cause, count in sorted(counts.items()):
                family.add_metric([cause], float(count))
            yield family


def make_registry(processor: Processor) -> CollectorRegistry:
    """Return the registry for `prometheus_client.generate_latest`."""
    registry = CollectorRegistry()
    registry.register(_Pulses(processor))
    return registry
