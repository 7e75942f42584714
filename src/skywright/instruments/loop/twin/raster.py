"""Compiled kernels: from vertices to density, transmission and the finished picture.

They leave the interpreter free for other threads while they run. `points` to `opaque` are arrays of
a `Mesh`; `turn`, (2,) float64, is cosine and sine of the spindle angle.
"""

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

# Material columns of Mesh.surface.
RIM, POWER, ALBEDO, SPECULAR, SCATTER, GRAIN = range(6)


@njit(cache=True, nogil=True, error_model="numpy")
def shade(
    points: Array,
    normals: Array,
    surface: Array,
    stage: Array,
    turn: Array,
    matrix: Array,
    origin: Array,
    lights: Array,
    level: Array,
    out: Array,
) -> None:
    """Project vertices and light them.

    Parameters
    ----------
    stage : (3,) float64, um
        Added to points.
    matrix, origin : (2, 2) float64 px/um, (2,) float64 px
        From (along the spindle, across) to (column, row), see `optics.projection`.
    lights : (K, 3) float64
        Unit vectors towards the lamps, (along, across, away from the camera).
    level : (2,) float64
        Front light and dark field.
    out : (N, 5) float64
        Filled with column, row, depth away from the camera um, density, reflected light.
    """
    c, s = turn
    for i in range(points.shape[0]):
        along = points[i, 0] + stage[0]
        y = points[i, 1] + stage[1]
        z = points[i, 2] + stage[2]
        across = y * c - z * s
        out[i, 0] = origin[0] + matrix[0, 0] * along + matrix[0, 1] * across
        out[i, 1] = origin[1] + matrix[1, 0] * along + matrix[1, 1] * across
        out[i, 2] = y * s + z * c
        na = normals[i, 0]
        nt = normals[i, 1] * c - normals[i, 2] * s
        nw = normals[i, 1] * s + normals[i, 2] * c
        oblique = max(1.0 - nw * nw, 0.0)
        power = surface[i, POWER]
        edge = oblique * oblique if power == 2.0 else oblique**power
        out[i, 3] = surface[i, RIM] * edge + surface[i, GRAIN]
        light = level[1] * surface[i, SCATTER] * oblique * oblique
        if level[0] > 0.0 or level[1] > 0.0:
            diffuse = 0.0
            mirror = 0.0
            for k in range(lights.shape[0]):
                la, lt, lw = lights[k]
                diffuse += max(na * la + nt * lt + nw * lw, 0.0)
                # Half way between the lamp and the camera, which is at depth minus infinity.
                ha, ht, hw = la, lt, lw - 1.0
                cosine = (na * ha + nt * ht + nw * hw) / math.sqrt(ha * ha + ht * ht + hw * hw)
                if cosine > 0.0:
                    mirror += cosine**24
            lit = surface[i, ALBEDO] * diffuse + surface[i, SPECULAR] * mirror
            light += (level[0] + 0.25 * level[1]) * lit
        out[i, 4] = light


@njit(cache=True, nogil=True, error_model="numpy")
def rasterize(
    vertex: Array,
    triangles: Array,
    face_normals: Array,
    absorption: Array,
    opaque: Array,
    layer: Array,
    turn: Array,
    shift: Array,
    density: Array,
    light: Array,
) -> None:
    """Add all triangles to the layers of density and reflected light.

    A closed surface adds its rim densities and, from the depths of back minus front faces, its
    absorption times the path inside it. Both triangles of an edge cut it with a row of pixels by
    the same arithmetic, so no pixel is missed or doubled.

    Parameters
    ----------
    vertex : (N, 5) float64
        From `shade`.
    triangles : (M, 3) int32
    face_normals : (M, 3) float64
    absorption : (M,) float64
    opaque : (M,) bool
    layer : (M,) int32
    turn : (2,) float64
    shift : (2,) float64, px
        Column and row of the center of the buffers' first pixel.
    density, light : (L, h, w) float32
        Added to.
    """
    height, width = density.shape[1:]
    for m in range(triangles.shape[0]):
        a, b, c = triangles[m, 0], triangles[m, 1], triangles[m, 2]
        if vertex[b, 1] < vertex[a, 1]:
            a, b = b, a
        if vertex[c, 1] < vertex[b, 1]:
            b, c = c, b
            if vertex[b, 1] < vertex[a, 1]:
                a, b = b, a
        ya, yb, yc = vertex[a, 1], vertex[b, 1], vertex[c, 1]
        first = max(math.ceil(ya - shift[1]), 0)
        last = min(math.ceil(yc - shift[1]), height)
        if first >= last:
            continue
        away = face_normals[m, 1] * turn[1] + face_normals[m, 2] * turn[0]
        sign = absorption[m] if away > 0.0 else -absorption[m]
        lit = 0.0 if (opaque[m] and away > 0.0) else 1.0
        xa, xb, xc = vertex[a, 0], vertex[b, 0], vertex[c, 0]
        if max(xa, xb, xc) < shift[0] or min(xa, xb, xc) > shift[0] + width:
            continue
        qa = vertex[a, 3] + sign * vertex[a, 2]
        qb = vertex[b, 3] + sign * vertex[b, 2]
        qc = vertex[c, 3] + sign * vertex[c, 2]
        la, lb, lc = lit * vertex[a, 4], lit * vertex[b, 4], lit * vertex[c, 4]
        long = 1.0 / (yc - ya)
        upper = 1.0 / (yb - ya)
        lower = 1.0 / (yc - yb)
        k = layer[m]
        for r in range(first, last):
            row = r + shift[1]
            t = (row - ya) * long
            x0, q0, l0 = xa + t * (xc - xa), qa + t * (qc - qa), la + t * (lc - la)
            if row < yb:
                t = (row - ya) * upper
                x1, q1, l1 = xa + t * (xb - xa), qa + t * (qb - qa), la + t * (lb - la)
            else:
                t = (row - yb) * lower
                x1, q1, l1 = xb + t * (xc - xb), qb + t * (qc - qb), lb + t * (lc - lb)
            if x1 < x0:
                x0, x1, q0, q1, l0, l1 = x1, x0, q1, q0, l1, l0
            x0 -= shift[0]
            x1 -= shift[0]
            begin = max(math.ceil(x0), 0)
            end = min(math.ceil(x1), width)
            if begin >= end:
                continue
            slope = 1.0 / (x1 - x0)
            dq = (q1 - q0) * slope
            dl = (l1 - l0) * slope
            q0 += (begin - x0) * dq
            l0 += (begin - x0) * dl
            dense, glow = density[k, r, begin:end], light[k, r, begin:end]
            for i in range(dense.size):
                dense[i] += np.float32(q0 + i * dq)
                glow[i] += np.float32(l0 + i * dl)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def accumulate(
    density: Array,
    light: Array,
    transmission: Array,
    reflection: Array,
    contrast: float,
    weight: float,
    field: int,
) -> None:
    """Turn densities times `contrast` into transmission, add to the means, clear the buffers.

    `field` is -1 for all rows, else the parity of the rows of an interlaced field.
    """
    height = density.shape[1]
    share, scale = np.float32(weight), np.float32(-contrast / 1024.0)
    zero, one = np.float32(0.0), np.float32(1.0)
    for k in range(density.shape[0]):
        for r in range(height):
            dense, lit = density[k, r], light[k, r]
            if field < 0 or (r & 1) == field:
                through, back = transmission[k, r], reflection[k, r]
                for c in range(dense.size):
                    # exp(-d) as (1 - d / 1024)**1024, wrong by 3e-4 at most: it vectorizes.
                    power = max(one + scale * max(dense[c], zero), zero)
                    for _ in range(10):
                        power *= power
                    through[c] += share * power
                    back[c] += share * lit[c]
            dense[:] = zero
            lit[:] = zero


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def blur(image: Array, sigma: float) -> None:
    """Blur (h, w) float32 in place by a Gaussian, px; the borders are repeated."""
    height, width = image.shape
    if sigma < 0.15:
        return
    reach = math.ceil(3.0 * sigma)
    kernel = np.empty(2 * reach + 1, np.float32)
    for i in range(2 * reach + 1):
        kernel[i] = math.exp(-0.5 * ((i - reach) / sigma) ** 2)
    kernel /= kernel.sum()
    line = np.empty(width + 2 * reach, np.float32)
    for r in range(height):
        line[:reach] = image[r, 0]
        line[reach : reach + width] = image[r]
        line[reach + width :] = image[r, width - 1]
        out = image[r]
        out[:] = kernel[0] * line[:width]
        for i in range(1, 2 * reach + 1):
            k = kernel[i]
            for c in range(width):
                out[c] += k * line[c + i]
    rows = image.copy()
    for r in range(height):
        out = image[r]
        out[:] = 0.0
        for i in range(2 * reach + 1):
            k, row = kernel[i], rows[min(max(r + i - reach, 0), height - 1)]
            for c in range(width):
                out[c] += k * row[c]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def expose(
    field: Array,
    chroma: Array,
    transmission: Array,
    reflection: Array,
    corner: Array,
    gains: Array,
    noise: Array,
    at: Array,
    image: Array,
) -> None:
    """Compose the picture.

    Parameters
    ----------
    field : (H, W) float32
        Picture without a sample, counts.
    chroma : (C, 6) float32
        Factor of a channel: 1 + a + b r^2 + c x + d y + e (1 - transmission) + f reflection, with x
        and y in -1..1 of the frame; C = 1 for gray.
    transmission, reflection : (h, w) float32
    corner : (2,) int64
        Column and row of their first pixel.
    gains : (6,) float64
        Light, counts of a reflection of 1, stray light counts, black level counts, read noise
        counts, shot noise counts**2 per count.
    noise, at : (K,) float32, (H,) int64
        Table of unit normal noise, and where in it a row begins. Video encoders keep far less noise
        in color than in brightness, so the channels share it.
    image : (H, W, C) uint8
        Filled.
    """
    height, width = field.shape
    channels = image.shape[2]
    h, w = transmission.shape
    left, right = corner[0], corner[0] + w
    light, reflect, stray, black, read, shot = gains
    through, back = np.ones(width, np.float32), np.zeros(width, np.float32)
    base = np.empty(width, np.float32)
    for r in range(height):
        through[:] = 1.0
        back[:] = 0.0
        if corner[1] <= r < corner[1] + h:
            through[left:right] = transmission[r - corner[1]]
            back[left:right] = reflection[r - corner[1]]
        y = 2.0 * r / height - 1.0
        random = noise[at[r] : at[r] + width]
        for c in range(width):
            value = light * (field[r, c] * through[c] + reflect * back[c] + stray) + black
            base[c] = value + math.sqrt(read * read + shot * max(value, 0.0)) * random[c]
        for k in range(channels):
            f0, f1, f2, f3, f4, f5 = chroma[k]
            constant = np.float32(1.0 + f0 + (f1 * y + f3) * y + f4)
            per_x = np.float32(2.0 / width)
            for c in range(width):
                x = c * per_x - np.float32(1.0)
                factor = constant + (f1 * x + f2) * x - f4 * through[c] + f5 * back[c]
                value = base[c] * factor + np.float32(0.5)
                image[r, c, k] = np.uint8(min(max(value, np.float32(0.0)), np.float32(255.0)))
