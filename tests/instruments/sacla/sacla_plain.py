"""The replay contract written a second time, with plain numpy: the reference of the tests."""

import json
import re

import h5py
import numpy as np
import pytest

ROIS = [
    ("tri", "MPCCD-A", [(3, 3), (20.5, 5), (15, 31)]),
    ("bow", "MPCCD-B", [(0, 0), (29, 39), (29, 0), (0, 39)]),
    ("all", "MPCCD-A", [(-5, -5), (40, -5), (40, 50), (-5, 50)]),
]


EQUIPMENT = ("i0", "beam", "laser_open", "laser_close", "delay", "timing")


def value_of(raw):
    found = re.fullmatch(rb"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)[A-Za-z]*", raw)
    return float(found[1]) if found else None


def inside(points, x, y):
    """Even-odd rule, one pixel at a time."""
    hit = False
    for k in range(len(points)):
        (xa, ya), (xb, yb) = points[k - 1], points[k]
        if (ya > y) != (yb > y) and x < (xb - xa) * (y - ya) / (yb - ya) + xa:
            hit = not hit
    return hit


def null(value):
    return None if value is None or not np.isfinite(value) else float(value)


def plain_replay(path, rois, edges, window, binned_by=None):
    """Return the report (without perf) and the images; `rois`: (name, detector, points).

    `binned_by`: a group of equipment; None: the delay, corrected by the timing tool.
    """
    equipment = (*EQUIPMENT, *({binned_by} - {None, *EQUIPMENT}))
    with h5py.File(path) as f:
        a, run = dict(f["analysis"].attrs), int(f.attrs["run"])
        first, last, step = (int(f.attrs[k]) for k in ("tag_first", "tag_last", "tag_step"))
        records = []
        detectors = list(f["detectors"])
        for channel in [f"detectors/{d}" for d in detectors] + [
            f"equipment/{e}" for e in equipment
        ]:
            g = f[channel]
            name = channel.split("/")[1]
            # Whole datasets: an element at a time took most of the time of the tests
            arrivals, tags, runs = (g[key][()] for key in ("arrival", "tag", "run"))
            texts = None if "data" in g else g["raw"][()]
            for k in range(len(tags)):
                payload = k if texts is None else value_of(texts[k])
                records.append((arrivals[k], name, int(tags[k]), int(runs[k]), payload))
        records.sort(key=lambda r: r[0])
        counts = dict.fromkeys(
            [
                "other_run",
                "late",
                "duplicate",
                "shots_expected",
                "no_frame",
                "no_value",
                "beam_off",
                "i0_low",
                "laser_ambiguous",
                "accepted",
                "accepted_on",
                "accepted_off",
                "no_timing",
                "out_of_range",
            ],
            0,
        )
        counts["records"] = len(records)
        got, top = {}, None
        for _, name, tag, its_run, payload in records:
            if its_run != run:
                counts["other_run"] += 1
            elif top is not None and tag < top - window:
                counts["late"] += 1
            elif (name, tag) in got:
                counts["duplicate"] += 1
            else:
                got[name, tag] = payload
                top = tag if top is None else max(top, tag)
        shots = []
        for tag in range(first, last + 1, step):
            counts["shots_expected"] += 1
            v = {e: got.get((e, tag)) for e in equipment}
            if any((d, tag) not in got for d in detectors):
                counts["no_frame"] += 1
            elif any(v[e] is None for e in EQUIPMENT[:5]):
                counts["no_value"] += 1
            elif v["beam"] <= a["beam_min"]:
                counts["beam_off"] += 1
            elif v["i0"] <= a["i0_min"]:
                counts["i0_low"] += 1
            elif (v["laser_open"] > 0.5) == (v["laser_close"] > 0.5):
                counts["laser_ambiguous"] += 1
            else:
                on = v["laser_open"] > 0.5
                counts["accepted"] += 1
                counts["accepted_on" if on else "accepted_off"] += 1
                where = None
                if v[binned_by or "timing"] is None:
                    counts["no_timing"] += 1
                else:
                    if binned_by is None:
                        value = (v["delay"] - a["t0_pulse"]) * a["ps_per_pulse"]
                        value += (v["timing"] - a["tt_ref_px"]) * a["ps_per_px"]
                    else:
                        value = v[binned_by]
                    for k in range(len(edges) - 1):
                        if edges[k] <= value < edges[k + 1]:
                            where = k
                    if value == edges[-1]:
                        where = len(edges) - 2
                    counts["out_of_range"] += where is None
                shots.append((tag, v["i0"], on, where))
        on = np.array([s[2] for s in shots], bool)
        images, radial, ev = {}, {}, {}
        for d in detectors:
            g = f["detectors"][d]
            bad = g["mask"][()] != 0
            frames = g["data"][()]
            stack = np.array([frames[got[d, s[0]]] for s in shots], np.float64).reshape(
                -1, *bad.shape
            )
            stack = stack * g.attrs["mp_absgain"] * a["ev_per_electron"]
            stack[stack < a["threshold_ev"]] = 0
            ev[d] = stack
            y, x = np.indices(bad.shape)
            k = np.floor(np.hypot(x - a["radial_cx"], y - a["radial_cy"]) / a["radial_dr"]).astype(
                int
            )
            rings = [(k == j) & ~bad for j in range(k.max() + 1)]
            radial[d] = {"count": [int(r.sum()) for r in rings]}
            for key, chosen in (("", on | True), ("_on", on), ("_off", ~on)):
                mean = stack[chosen].mean(0) if chosen.any() else np.full(bad.shape, np.nan)
                images[f"{d}/mean{key}"] = np.where(bad, np.nan, mean)
                radial[d][key.strip("_") or "all"] = [
                    null(mean[r].mean()) if r.any() else None for r in rings
                ]
            var = stack.var(0, ddof=1) if len(shots) > 1 else np.full(bad.shape, np.nan)
            images[f"{d}/var"] = np.where(bad, np.nan, var)
        report = {}
        for name, d, points in rois:
            bad = f["detectors"][d]["mask"][()] != 0
            m = np.array(
                [[inside(points, x, y) for x in range(bad.shape[1])] for y in range(bad.shape[0])]
            )
            m &= ~bad
            pixels = ev[d][:, m]
            sums = pixels.sum(1)
            photons = np.floor(pixels / a["photon_ev"] + 0.5).astype(int)
            i0 = np.array([s[1] for s in shots])
            with np.errstate(divide="ignore", invalid="ignore"):
                norm = sums / i0
            sides = {}
            for side, chosen in (("on", on), ("off", ~on)):
                parts = [
                    np.where(np.isfinite(norm), norm, np.nan)[
                        [bool(c) and s[3] == k for s, c in zip(shots, chosen, strict=True)]
                    ]
                    for k in range(len(edges) - 1)
                ]
                sides[side] = {
                    "n": [len(p) for p in parts],
                    "mean": [null(p.mean()) if len(p) else None for p in parts],
                    "sem": [
                        null(p.std(ddof=1) / np.sqrt(len(p))) if len(p) > 1 else None for p in parts
                    ],
                }
            diff, diff_sem = [], []
            for k in range(len(edges) - 1):
                m1, m0 = (sides[s]["mean"][k] for s in ("on", "off"))
                e1, e0 = (sides[s]["sem"][k] for s in ("on", "off"))
                diff.append(None if m1 is None or m0 is None else m1 - m0)
                diff_sem.append(None if e1 is None or e0 is None else float(np.hypot(e1, e0)))
            x, y = i0[~on], sums[~on]
            fit = {"n": len(x), "slope": None, "intercept": None, "r": None}
            if len(x) > 1:
                slope, intercept = np.polyfit(x, y, 1)
                fit.update(slope=slope, intercept=intercept, r=np.corrcoef(x, y)[0, 1])
            report[name] = {
                "detector": d,
                "npixels": int(m.sum()),
                "tags": [s[0] for s in shots],
                "sum_ev": sums.tolist(),
                "photons": photons.sum(1).tolist(),
                "norm": [null(value) for value in norm],
                "photon_hist": np.bincount(np.clip(photons, 0, 7).ravel(), minlength=8).tolist(),
                **sides,
                "diff": diff,
                "diff_sem": diff_sem,
                "corr_i0_off": fit,
            }
    bins = {"edges": list(edges), **({"binned_by": binned_by} if binned_by else {})}
    whole = {
        "format": "skywright-sacla-replay",
        "version": 1,
        "run": run,
        "counts": counts,
        "bins": bins,
        "rois": report,
        "radial": radial,
    }
    return json.loads(json.dumps(whole)), images


def assert_same(found, expected, where="", close=1e-9):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_same(found[key], expected[key], f"{where}/{key}", close)
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for k, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_same(a, b, f"{where}[{k}]", close)
    elif isinstance(expected, float) and found is not None:
        assert found == pytest.approx(expected, rel=close, abs=1e-7), where
    else:
        assert found == expected, where
