"""Writes small replay files with every irregularity that the join must handle."""

import h5py
import numpy as np

STEP, FIRST, RUN = 2, 1000, 55


def make_replay(path, seed=0, shots=120, shape=(40, 30), detectors=("MPCCD-A", "MPCCD-B")):
    rng = np.random.default_rng(seed)

    def channel(group, latency, kept):
        rows = []
        for k in range(shots):
            if rng.random() > kept:
                continue
            tag, at = FIRST + STEP * k, k / 30 + latency + rng.normal(0, 0.1)
            rows.append((at, tag, RUN if rng.random() > 0.02 else RUN - 1))
            if rng.random() < 0.05:  # repeated
                rows.append((at + rng.random(), tag, RUN))
            if rng.random() < 0.03:  # between the shots
                rows.append((at, tag + 1, RUN))
            if rng.random() < 0.03:  # late
                rows.append((at + 5, max(tag - 20, 1), RUN))
        rows.sort()
        group["arrival"] = np.array([row[0] for row in rows], float)
        group["tag"] = np.array([row[1] for row in rows], np.int64)
        group["run"] = np.array([row[2] for row in rows], np.int64)
        return [row[1] for row in rows]

    def equipment(file, key, value, latency):
        group = file.create_group(f"equipment/{key}")
        group.attrs["id"] = f"xfel_{key}"
        texts = [
            value(tag) if rng.random() > 0.01 else rng.choice(["not-converged", "saturated", ""])
            for tag in channel(group, latency, 0.98)
        ]
        group.create_dataset("raw", data=texts, dtype=h5py.string_dtype())

    with h5py.File(path, "w") as file:
        file.attrs.update(
            format="sacla-replay", version=1, beamline=3, run=RUN, hightag=202301,
            rep_rate_hz=30.0, tag_step=STEP, tag_first=FIRST, tag_last=FIRST + STEP * (shots - 1),
        )  # fmt: skip
        for detector in detectors:
            group = file.create_group(f"detectors/{detector}")
            group.attrs.update(mp_absgain=rng.uniform(10, 20), xsize=shape[1], ysize=shape[0])
            group["mask"] = (rng.random(shape) < 0.03).astype(np.uint8)
            count = len(channel(group, 0.1, 0.97))
            photons = rng.poisson(0.3, (count, *shape)) * 10000 / 3.65 / 15
            group["data"] = (photons + rng.normal(0, 3, photons.shape)).astype(np.float32)
        equipment(file, "i0", lambda tag: f"{abs(rng.normal(1, 0.3)):.4f}V", 0.5)
        equipment(file, "beam", lambda tag: "1" if rng.random() > 0.03 else "0", 0.2)
        equipment(file, "laser_open", lambda tag: str(tag // 2 % 2), 0.2)
        equipment(
            file,
            "laser_close",
            lambda tag: "0" if tag // 2 % 2 else str(int(rng.random() > 0.02)),
            0.2,
        )
        equipment(file, "delay", lambda tag: f"{int(rng.uniform(-300, 500))}pulse", 0.6)
        equipment(file, "timing", lambda tag: f"{rng.normal(500, 50):.2f}", 0.9)
        file.create_group("analysis").attrs.update(
            photon_ev=10000.0, ev_per_electron=3.65, threshold_ev=1000.0, i0_min=0.1, beam_min=0.5,
            ps_per_pulse=6.666e-3, t0_pulse=12.0, ps_per_px=2.4431e-3, tt_ref_px=500.0,
            radial_cx=shape[1] / 2, radial_cy=shape[0] / 3, radial_dr=1.5,
        )  # fmt: skip
    return path
