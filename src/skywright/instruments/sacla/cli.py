"""``skywright sacla ...``: online analysis of shots."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from skywright.errors import ConfigError
from skywright.instruments.sacla.cli_facility import facility

if TYPE_CHECKING:
    from skywright.instruments.sacla.report import Report
    from skywright.instruments.sacla.sources.sacla import SaclaSource

app = typer.Typer(no_args_is_help=True, add_completion=False)
app.command()(facility)

RoiOption = Annotated[
    list[str] | None,
    typer.Option(
        "--roi",
        help="Region of interest: NAME:DETECTOR:x,y;x,y;... (pixels), or NAME:DETECTOR:mask=FILE "
        "with FILE.npy or FILE.h5:DATASET.",
    ),
]
BinsOption = Annotated[
    str, typer.Option("--bins", help="START:STOP:N, ps or the unit of --binned-by.")
]
BinnedByOption = Annotated[
    str,
    typer.Option(
        "--binned-by",
        metavar="VALUE",
        help="The binned value: delay, stage (its delay alone), timing, i0, or the key of "
        "another point detector of the source.",
    ),
]
WindowOption = Annotated[
    int,
    typer.Option(
        "--window", min=0, max=1_000_000, help="Tags that the join waits for late records."
    ),
]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Number of processes.")]
DaskOption = Annotated[
    str | None,
    typer.Option(
        "--dask", metavar="ADDRESS", help="Dask scheduler, or 'local' to use all cores here."
    ),
]
ImagesOption = Annotated[
    Path | None, typer.Option("--images", help="Write mean and variance images, NPZ.")
]
SourceOption = Annotated[str, typer.Option("--source", help="sim, replay or sacla.")]
FileOption = Annotated[Path | None, typer.Option("--file", help="replay: the recorded file.")]
SpeedOption = Annotated[
    float,
    typer.Option("--speed", min=0, help="Factor on the pace of the source; 0: without pauses."),
]
ShotsOption = Annotated[
    int | None, typer.Option("--shots", min=1, help="Stop after this number of shots.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="sim: seed of the random numbers.")]
TilesOption = Annotated[int, typer.Option("--tiles", min=1, max=8, help="sim: number of tiles.")]
FaultOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fault",
        metavar="NAME=VALUE",
        help="sim: probability of a fault of a record: missing, repeated, no_value, "
        "other_run, late, out_of_order; run_shots=N begins a run after each N shots.",
    ),
]
OnlineOption = Annotated[
    Path | None, typer.Option("--online", help="sacla: TOML file with its settings.")
]
BeamlineOption = Annotated[
    int | None, typer.Option("--beamline", min=1, max=3, help="sacla: number of the beamline.")
]
DetectorOption = Annotated[
    list[str] | None, typer.Option("--detector", help="sacla: id of a detector.")
]
EquipmentOption = Annotated[
    list[str] | None, typer.Option("--equipment", help="sacla: ROLE=ID of a point detector.")
]


@app.callback()
def _group() -> None:
    """SACLA: shots joined by tag, regions of interest, delay curves."""


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="HDF5 in the format sacla-replay, version 1.")],
    bins: BinsOption,
    binned_by: BinnedByOption = "delay",
    roi: RoiOption = None,
    window: WindowOption = 120,
    workers: WorkersOption = 1,
    dask: DaskOption = None,
    images: ImagesOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Analyze a recorded file."""
    from contextlib import nullcontext

    from skywright.analysis.cluster import cluster
    from skywright.instruments.sacla.regions import parse_region
    from skywright.instruments.sacla.replay import replay as analyze
    from skywright.instruments.sacla.report import check_writable, parse_bins

    regions = [parse_region(text) for text in roi or []]
    edges = parse_bins(bins)
    if images is not None:
        check_writable(images)
    with cluster(dask) if dask else nullcontext() as submit:
        report = analyze(file, regions, edges, window, workers, submit, binned_by)
    _print(report, images, as_json)


def _show(message: str) -> None:
    typer.echo(message, err=True)


def _show_trouble(message: str) -> None:
    if not message.endswith(": no more items"):  # the end of a file is no trouble
        _show(message)


def _print(report: "Report", images: Path | None, as_json: bool) -> None:
    if as_json:
        json.dump(report.values, sys.stdout, allow_nan=False)
        sys.stdout.write("\n")
    else:
        typer.echo("\n".join(report.lines()))
    if images is not None:  # last: on a full disk the rest of a running analysis is not lost
        report.save_images(images)


@app.command()
def live(
    bins: BinsOption,
    source: SourceOption = "sim",
    file: FileOption = None,
    speed: SpeedOption = 1.0,
    binned_by: BinnedByOption = "delay",
    roi: RoiOption = None,
    window: WindowOption = 120,
    workers: WorkersOption = 1,
    dask: DaskOption = None,
    images: ImagesOption = None,
    shots: ShotsOption = None,
    seed: SeedOption = 0,
    tiles: TilesOption = 1,
    fault: FaultOption = None,
    online: OnlineOption = None,
    beamline: BeamlineOption = None,
    detector: DetectorOption = None,
    equipment: EquipmentOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Analyze shots while they come.

    It ends with the source, after --shots, or on Ctrl-C or SIGTERM, and reports what it found.
    Messages of the source, and what it lost, by cause, are lines on stderr. A second Ctrl-C ends it
    without a report.
    """
    from contextlib import closing, nullcontext

    from skywright.analysis.cluster import cluster
    from skywright.instruments.sacla import cli_sources
    from skywright.instruments.sacla.live import LiveShots
    from skywright.instruments.sacla.regions import parse_region
    from skywright.instruments.sacla.report import check_writable, parse_bins
    from skywright.processes.lifecycle import call_on_end_signal

    regions, edges = [parse_region(text) for text in roi or []], parse_bins(bins)
    if images is not None:
        check_writable(images)
    shots_source = cli_sources.make_source(
        source,
        sim=lambda: cli_sources.simulated_source(shots, speed, seed, tiles, fault or []),
        replay=lambda: cli_sources.replay_source(file, speed, binned_by, shots),
        sacla=lambda: cli_sources.online_source(online, beamline, detector, equipment, shots),
    )
    options = (shots_source, regions, edges, window, workers, False, binned_by)
    with (
        closing(shots_source),
        cluster(dask) if dask else nullcontext() as submit,
        closing(LiveShots(*options, submit)) as analysis,
    ):
        call_on_end_signal(analysis.stop, once=True)
        report = analysis.run(shots, _show_trouble)
    if lost := shots_source.lost:
        causes = ", ".join(f"{count} {cause}" for cause, count in lost.items())
        _show(f"images and values that the source lost: {causes}")
    _print(report, images, as_json)


@app.command()
def record(
    out: Annotated[Path, typer.Argument(help="New file, HDF5 in the format sacla-replay.")],
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="UID",
            help="A stored run in place of a source: its uid, its scan_id, -1 for the newest, or "
            "the HDF5 file of its rows.",
        ),
    ] = None,
    facility_run: Annotated[
        int | None,
        typer.Option("--facility-run", help="With --run: which run of the facility, if several."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="With --run: use this skywright.toml."),
    ] = None,
    source: SourceOption = "sim",
    file: FileOption = None,
    speed: SpeedOption = 1.0,
    binned_by: Annotated[
        str,
        typer.Option(
            "--binned-by", metavar="VALUE", help="replay: name of one more value to copy."
        ),
    ] = "delay",
    shots: ShotsOption = None,
    most_gb: Annotated[
        float, typer.Option("--most-gb", min=0, help="Stop at this size of the frames, GB.")
    ] = 100.0,
    seed: SeedOption = 0,
    tiles: TilesOption = 1,
    fault: FaultOption = None,
    online: OnlineOption = None,
    beamline: BeamlineOption = None,
    detector: DetectorOption = None,
    equipment: EquipmentOption = None,
) -> None:
    """Record frames and values of a source, or of a stored run, in a file that `replay` reads.

    Ctrl-C or SIGTERM ends it; all that has come by then is in the file.
    """
    import signal
    from contextlib import closing

    from skywright.instruments.sacla import cli_sources
    from skywright.instruments.sacla.replay_writer import record_replay

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    if run is not None:
        if source != "sim" or file or online or detector or equipment or fault:
            raise ConfigError("--run names a stored run; options of a source do not go with it")
        _record_run(out, run, facility_run, config, shots, most_gb, beamline or 3)
        return
    if facility_run is not None or config is not None:
        raise ConfigError("--facility-run and --config go with --run")
    shots_source = cli_sources.make_source(
        source,
        sim=lambda: cli_sources.simulated_source(shots, speed, seed, tiles, fault or []),
        replay=lambda: cli_sources.replay_source(file, speed, binned_by, shots),
        sacla=lambda: cli_sources.online_source(online, beamline, detector, equipment, shots),
    )
    ids = {}
    if source == "sacla":
        settings = cast("SaclaSource", shots_source).settings
        beamline, ids = settings.beamline, settings.equipment.of_beamline(settings.beamline)
    with closing(shots_source):
        count = record_replay(
            shots_source, out, shots, most_gb * 1e9, beamline or 3, _show_trouble, ids
        )
    typer.echo(f"{out}: {count} records")


def _record_run(
    out: Path,
    run: str,
    facility_run: int | None,
    config: Path | None,
    shots: int | None,
    most_gb: float,
    beamline: int,
) -> None:
    """Write a stored run as a replay file."""
    from skywright.instruments.sacla.replay_run import choose_file, recorded_files, replay_of

    files = [Path(run)]
    if not files[0].is_file():
        from skywright.config import load_settings
        from skywright.session.session_store import connect_for_person
        from skywright.store.lookup import find_run
        from skywright.store.stored_run import run_documents

        settings = load_settings(config)
        stored = find_run(connect_for_person(settings), run)
        files = recorded_files(run_documents(stored, settings.journals))
    rows = choose_file(files, facility_run)
    count = replay_of(rows, out, shots, most_gb * 1e9, beamline, _show, facility_run)
    typer.echo(f"{out}: {count} records")
