"""EPU: cryo-EM acquisition software that writes a directory tree of XML files."""

from skywright.instruments import Instrument, Ioc, NamedAnalysis, ServiceOffer

__all__ = ["INSTRUMENT"]

INSTRUMENT = Instrument(
    name="epu",
    title="EPU: cryo-EM acquisition software that writes a directory",
    summary="Cryo-EM sessions: parse, validate, watch, record and serve what EPU writes.",
    extra="epu",
    iocs={"epu": Ioc("iocs.epu", "EPU1:", ("--source", "sim", "--speed", "50"))},
    settings="skywright.instruments.epu.section:EpuSettings",
    analyses={
        "epu_quality": NamedAnalysis(
            "skywright.instruments.epu.decisions.analysis:MicrographQuality",
            live=True,
            settings="quality_parameters",
        )
    },
    devices="devices.epu.session:make_devices",
    plans=("plans.epu.track:track_epu",),
    views=("dashboard.epu.view:VIEW",),
    demos={"epu": "skywright.instruments.epu.demos.visit"},
    commands="skywright.instruments.epu.cli:app",
    services={
        "epu-api": ServiceOffer(
            ("skywright", "epu", "serve"), "the entity database of EPU sessions over HTTP"
        ),
        "epu-consumer": ServiceOffer(
            ("skywright", "epu", "consume"), "applies messages of RabbitMQ to that database"
        ),
    },
)
