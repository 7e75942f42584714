"""A beam position monitor: four diodes around the beam, 1000 samples per second."""

from skywright.instruments import Instrument, Ioc, NamedAnalysis

INSTRUMENT = Instrument(
    name="bpm",
    title="Beam position monitor with four diodes",
    extra="bpm",
    iocs={"bpm": Ioc("skywright_bpm.ioc", "BPM1:", ("--seed", "1"))},
    settings="skywright_bpm.settings:BpmSettings",
    analyses={
        "bpm_position": NamedAnalysis(
            "skywright_bpm.analysis:BeamPosition", live=True, settings="position"
        ),
    },
    devices="skywright_bpm.device:make_devices",
    plans=("skywright_bpm.plans:record_position",),
    commands="skywright_bpm.cli:app",
    demos={"bpm": "skywright_bpm.demo"},
    views=("skywright_bpm.view:VIEW",),
)
