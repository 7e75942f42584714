"""Single-shot spectra of a free-electron laser, one picture a pulse."""

from typing import TYPE_CHECKING, Any

from skywright.instruments import Instrument, Ioc, NamedAnalysis

if TYPE_CHECKING:
    from skywright.instruments.psss.client import Client

__all__ = ["INSTRUMENT", "Client"]

INSTRUMENT = Instrument(
    name="psss",
    title="Single-shot spectrometer of a free-electron laser",
    summary="Single-shot spectrometer: spectra for all clients.",
    extra="psss",
    iocs={"psss": Ioc("iocs.psss", "PSSS1:", ("--source", "sim"))},
    settings="skywright.instruments.psss.section:PsssSettings",
    analyses={
        "psss_pictures": NamedAnalysis(
            "skywright.instruments.psss.analysis:PictureSpectra",
            configured="skywright.instruments.psss.configured:picture_parameters",
        ),
        "psss_spectra": NamedAnalysis(
            "skywright.instruments.psss.analysis:SpectrumStatistics",
            configured="skywright.instruments.psss.configured:spectra_parameters",
            live=True,
            settings="spectra",
        ),
    },
    devices="devices.psss.session:make_devices",
    plans=(
        "plans.psss.spectrum:acquire_spectra",
        "plans.psss.spectrum:calibrate_energy_axis",
        "plans.psss.spectrum:optimize_spectrum",
        "plans.psss.spectrum:record_pulses",
        "plans.psss.spectrum:scan_spectra",
        "plans.psss.spectrum:take_background",
    ),
    commands="skywright.instruments.psss.cli.app:app",
    demos={"psss": "skywright.instruments.psss.demos.spectra"},
    views=("dashboard.psss.view:VIEW",),
    kernels=(
        "skywright.instruments.psss.processing:warm_up",
        "skywright.instruments.psss.statistics:warm_up",
        "skywright.instruments.psss.twin.instrument:warm_up",
    ),
)


def __getattr__(name: str) -> Any:
    """Import `Client` only when somebody asks for it: it needs an HTTP library."""
    if name == "Client":
        from skywright.instruments.psss.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
