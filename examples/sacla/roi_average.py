"""Draw a region of interest on the average of some frames, and watch its signal.

python examples/sacla/roi_average.py                      # the simulated beamline
python examples/sacla/roi_average.py --source replay --file run.h5
python examples/sacla/roi_average.py --source sacla --beamline 3 --online beamtime.toml
python examples/sacla/roi_average.py --headless --shots 500 --png roi.png

The picture is the average of ten frames (``--frames``). Click the corners of a polygon, the first
one again to close it. Then the script accumulates until its window is closed: the sum over the
region against I0, against the delay with standard errors, and against the tag.

It needs the extra ``sacla`` alone.
"""

import argparse
import sys
import threading
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.widgets import PolygonSelector

from skywright.errors import SkywrightError
from skywright.instruments.sacla.cli_sources import online_source
from skywright.instruments.sacla.first_frames import average_frames
from skywright.instruments.sacla.live import LiveShots
from skywright.instruments.sacla.regions import Region
from skywright.instruments.sacla.report import parse_bins
from skywright.instruments.sacla.sources.replay import ReplaySource
from skywright.instruments.sacla.sources.sim import SimSource
from skywright.instruments.sacla.twin import Beamline, TwinSettings

REFRESH_S = 1.0


def read_arguments(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", choices=["sim", "replay", "sacla"], default="sim")
    parser.add_argument("--file", type=Path, help="replay: the recorded file")
    parser.add_argument("--online", type=Path, help="sacla: TOML file with its settings")
    parser.add_argument("--beamline", type=int, help="sacla: its number")
    parser.add_argument("--speed", type=float, default=1.0, help="factor on the pace; 0: no pace")
    parser.add_argument("--detector", help="detector id; by default the first one")
    parser.add_argument("--frames", type=int, default=10, help="frames that are averaged")
    parser.add_argument("--roi", help="corners x,y;x,y;... instead of drawing them")
    parser.add_argument("--bins", default="-2:3:20", help="delay bins START:STOP:N, ps")
    parser.add_argument("--shots", type=int, help="stop after this number of shots")
    parser.add_argument("--headless", action="store_true", help="no window")
    parser.add_argument("--png", type=Path, help="write the picture at the end")
    found = parser.parse_args(arguments)
    if found.source == "replay" and found.file is None:
        parser.error("--source replay needs --file")
    if found.headless and found.shots is None and found.source == "sim":
        parser.error("--headless needs --shots: a simulated run has no end")
    if found.headless and found.png is None:
        parser.error("--headless needs --png")
    return found


def make_source(options):
    """Return a source of shots, not started."""
    if options.source == "replay":
        return ReplaySource(options.file, options.speed)
    if options.source == "sacla":
        return online_source(options.online, options.beamline, [], [], options.shots)
    return SimSource(Beamline(TwinSettings(pool=16), seed=1), options.shots, options.speed)


def show_average(axes, mean, detector):
    """Show the picture that regions are drawn on."""
    low, high = np.percentile(mean, (1, 99.5))
    axes.imshow(mean, vmin=low, vmax=max(high, low + 1e-9), interpolation="none")
    axes.set(title=detector, xlabel="x (pixels)", ylabel="y (pixels)")


def draw_region(axes):
    """Let the operator draw a polygon; return its corners, or none if the window is closed."""
    axes.set_title("click the corners of a region, the first one again to close it")
    corners = []
    selector = PolygonSelector(axes, corners.extend)
    while not corners and plt.fignum_exists(axes.figure.number):
        plt.pause(0.1)
    selector.disconnect_events()
    return corners


def default_corners(shape):
    """Return a square around the center."""
    rows, columns = shape
    x, y, half = columns / 2, rows / 2, min(shape) / 4
    return [(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)]


def draw_results(panels, report):
    """Draw what has been found so far."""
    roi, edges = report.values["rois"]["roi"], np.array(report.values["bins"]["edges"])
    missing = np.nan
    sums = np.array([missing if v is None else v for v in roi["sum_ev"]], float) / 1e3
    norm = np.array([missing if v is None else v for v in roi["norm"]], float) / 1e3
    against_i0, against_delay, against_tag = panels
    for axes in panels:
        axes.clear()
    against_i0.plot(sums / norm, sums, ".", markersize=2)
    against_i0.set(xlabel="I0 (V)", ylabel="sum (keV)")
    centers = (edges[1:] + edges[:-1]) / 2
    for side, color in (("off", "tab:gray"), ("on", "tab:red")):
        mean, error = (
            np.array([missing if v is None else v for v in roi[side][key]], float) / 1e3
            for key in ("mean", "sem")
        )
        against_delay.errorbar(centers, mean, error, fmt="o", markersize=3, color=color, label=side)
    against_delay.set(xlabel="delay (ps)", ylabel="sum / I0 (keV/V)")
    against_delay.legend(title="laser")
    against_tag.plot(roi["tags"], norm, ".", markersize=2)
    against_tag.set(xlabel="tag", ylabel="sum / I0 (keV/V)")
    counts = report.values["counts"]
    against_i0.set_title(f"{counts['accepted']} of {counts['shots_expected']} shots")


def accumulate(options, region, figure, panels):
    """Analyze shots until the window is closed or the source ends; return the last report."""
    source = make_source(options)
    analysis = LiveShots(source, [region], parse_bins(options.bins))
    found, failed = [], []

    def run():
        try:
            found.append(analysis.run(options.shots))
        except SkywrightError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    try:
        thread.start()
        while thread.is_alive():
            if options.headless:
                thread.join()
            elif plt.fignum_exists(figure.number):
                draw_results(panels, analysis.snapshot())
                plt.pause(REFRESH_S)
            else:
                break
    finally:
        analysis.stop()
        thread.join()
        analysis.close()
        source.close()
    if failed:
        raise failed[0]
    return found[0]


def main(arguments=None):
    """Run the script; return its exit status."""
    options = read_arguments(arguments)
    if options.headless:
        matplotlib.use("Agg")
    source = make_source(options)
    try:
        detector = options.detector or next(iter(source.info.tiles))
        mean = average_frames(source, detector, options.frames)
    finally:
        source.close()
    figure = plt.figure(figsize=(11, 7), layout="constrained")
    grid = figure.add_gridspec(3, 2)
    picture = figure.add_subplot(grid[:, 0])
    panels = [figure.add_subplot(grid[row, 1]) for row in range(3)]
    show_average(picture, mean, detector)
    if options.roi:
        corners = [tuple(map(float, corner.split(","))) for corner in options.roi.split(";")]
    elif options.headless:
        corners = default_corners(mean.shape)
    else:
        corners = draw_region(picture)
    if len(corners) < 3:
        print("no region was drawn", file=sys.stderr)
        return 1
    picture.set_title(detector)
    picture.plot(*np.array([*corners, corners[0]]).T, color="white")
    report = accumulate(options, Region("roi", detector, tuple(corners)), figure, panels)
    draw_results(panels, report)
    if options.png is not None:
        figure.savefig(options.png)
    for reason, count in report.values["counts"].items():
        print(f"{reason:16} {count}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SkywrightError as error:
        sys.exit(str(error))
