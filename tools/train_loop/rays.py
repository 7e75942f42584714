"""The rays of `traced`: compiled loops over the rays that meet a body.

A layer, (4, rows, columns), holds of each ray its direction (x, y), how much of the light behind it
still passes, and the light that was added on its way. `bits` marks what it met.
"""

import numpy as np
from numba import njit

PIN, STEM, HEAD, CONTENT = 1, 2, 4, 8
OPAQUE, CLEAR = 0, 1


@njit(cache=True, fastmath=True)
def lamp_seen(ux, uy, lamp):
    """Return the light of the lamp behind in a direction: a disc or ring with a soft edge."""
    far = np.hypot(ux - lamp[0], uy - lamp[1])
    part = 1.0 / (1.0 + np.exp(min((far - lamp[2]) / lamp[3], 50.0)))
    if lamp[4] > 0:
        part *= 1.0 / (1.0 + np.exp(min((lamp[4] - far) / lamp[3], 50.0)))
    return part


@njit(cache=True, fastmath=True)
def bent(dx, dy, dz, nx, ny, nz, ratio):
    """Refract a direction at a normal that points against it; dz = 0: totally reflected."""
    c = -(dx * nx + dy * ny + dz * nz)
    k = 1.0 - ratio * ratio * (1.0 - c * c)
    if k < 0:
        return 1.0, 0.0, 0.0
    f = ratio * c - np.sqrt(k)
    return ratio * dx + f * nx, ratio * dy + f * ny, ratio * dz + f * nz


@njit(cache=True, fastmath=True)
def lit_by(nx, ny, nz, lights, behind, look):
    """Return the light off a surface: diffuse, glossy under each lamp, and the lamp behind."""
    diffuse, gloss, power, mirror = look[0], look[1], look[2], look[3]
    total = look[4]
    rx, ry, rz = -2 * nz * nx, -2 * nz * ny, 1 - 2 * nz * nz
    for k in range(len(lights)):
        lx, ly, lz, strength = lights[k, 0], lights[k, 1], lights[k, 2], lights[k, 3]
        total += strength * diffuse * max(nx * lx + ny * ly + nz * lz, 0.0)
        total += strength * gloss * max(rx * lx + ry * ly + rz * lz, 0.0) ** power
    if rz > 0.05:
        fresnel = mirror + (1 - mirror) * (1 + nz) ** 5
        total += behind[5] * fresnel * lamp_seen(rx / rz, ry / rz, behind) * look[5]
    return total


@njit(cache=True, fastmath=True)
def pass_on(layer, r, c, d, path, light, clear, fresnel):
    """Let a ray through a transparent body: its direction, its loss, the light that is added."""
    if d[2] > 0.05:
        layer[0, r, c] += d[0] / d[2]
        layer[1, r, c] += d[1] / d[2]
    else:
        layer[0, r, c] += 5.0
    loss = np.exp(-clear * path) * (1 - fresnel)
    layer[2, r, c] *= loss
    layer[3, r, c] = layer[3, r, c] * loss + light * fresnel


@njit(cache=True, fastmath=True)
def profile_value(shape, k, s):
    """Return a profile at a place along the body, between its points."""
    i = min(max(int(s), 0), shape.shape[1] - 2)
    f = min(max(s - i, 0.0), 1.0)
    return shape[k, i] * (1 - f) + shape[k, i + 1] * f


@njit(cache=True, fastmath=True)
def inside_of(s, v, q, shape):
    """Return below 0 within a body of elliptic sections."""
    return (v / profile_value(shape, 0, s)) ** 2 + (q / profile_value(shape, 1, s)) ** 2 - 1.0


@njit(cache=True, fastmath=True)
def normal_of(s, p, z, shape, cp, sp, step):
    """Return the outer normal of such a body, in its frame s, p, z."""
    i = min(max(int(s), 0), shape.shape[1] - 2)
    w, t = profile_value(shape, 0, s), profile_value(shape, 1, s)
    dw, dt = (shape[0, i + 1] - shape[0, i]) / step, (shape[1, i + 1] - shape[1, i]) / step
    v, q = p * cp + z * sp, -p * sp + z * cp
    gs, gv, gq = -(v * v / w**3 * dw + q * q / t**3 * dt), v / w**2, q / t**2
    gp, gz = gv * cp - gq * sp, gv * sp + gq * cp
    norm = np.sqrt(gs * gs + gp * gp + gz * gz) + 1e-12
    return gs / norm, gp / norm, gz / norm


@njit(cache=True, fastmath=True)
def meet_solid(
    layer, bits, frame, shape, mode, index, clear, look, lights, behind, rough, bit, scale
):
    """Trace a body of elliptic sections: half axes 0 and 1 and middle 2 of `shape` along s."""
    ox, oy, ca, sa, cp, sp, step = frame
    n = shape.shape[1]
    reach = 0.0
    for i in range(n):
        reach = max(reach, abs(shape[2, i]) + max(shape[0, i], shape[1, i]))
    d = np.zeros(3)
    m = rough.shape[1]
    ex, ey = ca * n * step, sa * n * step
    rows, cols = layer.shape[1], layer.shape[2]
    r0 = max(int((min(oy, oy + ey) - reach) * scale) - 2, 0)
    r1 = min(int((max(oy, oy + ey) + reach) * scale) + 3, rows)
    c0 = max(int((min(ox, ox + ex) - reach) * scale) - 2, 0)
    c1 = min(int((max(ox, ox + ex) + reach) * scale) + 3, cols)
    for r in range(r0, r1):
        for c in range(c0, c1):
            x, y = (c + 0.5) / scale - 0.5 - ox, (r + 0.5) / scale - 0.5 - oy
            s = (x * ca + y * sa) / step
            if s < 0 or s > n - 1:
                continue
            p = -x * sa + y * ca - profile_value(shape, 2, s)
            w, t = profile_value(shape, 0, s), profile_value(shape, 1, s)
            qa = (sp / w) ** 2 + (cp / t) ** 2
            qb = p * cp * sp / w**2 - p * sp * cp / t**2
            disc = qb * qb - qa * ((p * cp / w) ** 2 + (p * sp / t) ** 2 - 1.0)
            if disc <= 0:
                continue
            z0, z1 = (-qb - np.sqrt(disc)) / qa, (-qb + np.sqrt(disc)) / qa
            ns, npp, nz = normal_of(s, p, z0, shape, cp, sp, step)
            nz = min(nz, -0.02)
            ns += rough[0, r % m, c % m] + rough[2, 0, int(s * step * scale) % m]
            npp += rough[1, r % m, c % m]
            norm = np.sqrt(ns * ns + npp * npp + nz * nz)
            ns, npp, nz = ns / norm, npp / norm, nz / norm
            nx, ny = ns * ca - npp * sa, ns * sa + npp * ca
            light = lit_by(nx, ny, nz, lights, behind, look)
            bits[r, c] |= bit
            if mode == OPAQUE:
                layer[2, r, c] = 0.0
                layer[3, r, c] = light
                continue
            # through the body: in the frame s, p, z
            a, b, g = bent(0.0, 0.0, 1.0, ns, npp, nz, 1.0 / index)
            low, high = 0.02 * (z1 - z0), 1.5 * (z1 - z0) + 0.5
            for _ in range(6):
                at = 0.5 * (low + high)
                pp, zz = p + b * at, z0 + g * at
                f = inside_of(s + a * at / step, pp * cp + zz * sp, -pp * sp + zz * cp, shape)
                if f < 0:
                    low = at
                else:
                    high = at
            pp, zz, se = p + b * low, z0 + g * low, s + a * low / step
            gs, gp, gz = normal_of(se, pp, zz, shape, cp, sp, step)
            a, b, g = bent(a, b, g, -gs, -gp, -gz, index)
            d[0], d[1], d[2] = a * ca - b * sa, a * sa + b * ca, g
            base = ((index - 1) / (index + 1)) ** 2
            pass_on(layer, r, c, d, low, light, clear, base + (1 - base) * (1 + nz) ** 5)


@njit(cache=True, fastmath=True)
def meet_tube(layer, bits, depth, points, radius, index, clear, look, lights, behind, bit, scale):
    """Trace a fiber, capsules along a curve: the nearest one bends and reflects the ray."""
    rows, cols = bits.shape
    near = np.full((rows, cols), 1e9, np.float32)
    which = np.full((rows, cols), -1, np.int32)
    for k in range(len(points) - 1):
        x0, y0, x1, y1 = points[k, 0], points[k, 1], points[k + 1, 0], points[k + 1, 1]
        ex, ey = x1 - x0, y1 - y0
        long = ex * ex + ey * ey + 1e-9
        r0 = max(int((min(y0, y1) - radius + 0.5) * scale), 0)
        r1 = min(int((max(y0, y1) + radius + 0.5) * scale) + 1, rows)
        c0 = max(int((min(x0, x1) - radius + 0.5) * scale), 0)
        c1 = min(int((max(x0, x1) + radius + 0.5) * scale) + 1, cols)
        for r in range(r0, r1):
            for c in range(c0, c1):
                x, y = (c + 0.5) / scale - 0.5 - x0, (r + 0.5) / scale - 0.5 - y0
                f = min(max((x * ex + y * ey) / long, 0.0), 1.0)
                far = (x - f * ex) ** 2 + (y - f * ey) ** 2
                if far >= radius * radius:
                    continue
                z = points[k, 2] * (1 - f) + points[k + 1, 2] * f
                z -= np.sqrt(radius * radius - far)
                if z < near[r, c]:
                    near[r, c] = z
                    which[r, c] = k
    d = np.zeros(3)
    for r in range(rows):
        for c in range(cols):
            k = which[r, c]
            if k < 0:
                continue
            x0, y0 = points[k, 0], points[k, 1]
            ex, ey = points[k + 1, 0] - x0, points[k + 1, 1] - y0
            x, y = (c + 0.5) / scale - 0.5 - x0, (r + 0.5) / scale - 0.5 - y0
            f = min(max((x * ex + y * ey) / (ex * ex + ey * ey + 1e-9), 0.0), 1.0)
            nx, ny = (x - f * ex) / radius, (y - f * ey) / radius
            nz = -np.sqrt(max(1 - nx * nx - ny * ny, 0.0004))
            light = lit_by(nx, ny, nz, lights, behind, look)
            a, b, g = bent(0.0, 0.0, 1.0, nx, ny, nz, 1.0 / index)
            path = -2 * radius * (a * nx + b * ny + g * nz)
            mx, my, mz = nx + a * path / radius, ny + b * path / radius, nz + g * path / radius
            d[0], d[1], d[2] = bent(a, b, g, -mx, -my, -mz, index)
            base = ((index - 1) / (index + 1)) ** 2
            pass_on(layer, r, c, d, path, light, clear, base + (1 - base) * (1 + nz) ** 5)
            bits[r, c] |= bit
            depth[r, c] = near[r, c]


@njit(cache=True, fastmath=True)
def meet_film(bits, frame, shape, thick, bevel, bow, bar, neck, scale):
    """Return the rays' way through a curved film, its outline and aperture given along s."""
    ox, oy, ca, sa, cp, sp, step = frame
    n = shape.shape[1]
    rows, cols = bits.shape
    length = np.zeros((rows, cols), np.float32)
    for r in range(rows):
        for c in range(cols):
            x, y = (c + 0.5) / scale - 0.5 - ox, (r + 0.5) / scale - 0.5 - oy
            s = (x * ca + y * sa) / step
            if s < 0 or s > n - 1:
                continue
            w, hole, slope = (
                profile_value(shape, 0, s),
                profile_value(shape, 1, s),
                profile_value(shape, 3, s),
            )
            p = -x * sa + y * ca - profile_value(shape, 2, s)
            sag = abs(bow) * w * w + thick
            if abs(p) > w * abs(cp) + sag * abs(sp) + 1:
                continue
            low, high = -w * abs(sp) - sag * abs(cp) - 0.5, w * abs(sp) + sag * abs(cp) + 0.5
            if abs(cp) > 0.02:  # where the ray is near the film
                low, high = (
                    max(low, p * sp / cp - sag / abs(cp)),
                    min(high, p * sp / cp + sag / abs(cp)),
                )
            if abs(sp) < 0.5:
                middle, reach = p * sp / cp, 0.8 * thick / abs(cp) + 0.2
                for _ in range(5):
                    middle = (p * sp + bow * (p * cp + middle * sp) ** 2) / cp
                low, high = middle - reach, middle + reach
            count = min(max(int((high - low) * abs(cp) / (0.3 * thick)), 8), 48)
            dz = (high - low) / count
            for k in range(count):
                z = low + (k + 0.5) * dz
                v, q = p * cp + z * sp, -p * sp + z * cp
                edge = min(w - abs(v), abs(v) - hole)
                if hole > 0 and bar > 0 and edge < 0 and w > abs(v):
                    grid = bar * 4
                    gs, gv = (s * step) % grid, (v + 1000 * grid) % grid
                    edge = max(edge, 0.5 * bar - min(abs(gs - 2 * bar), abs(gv - 2 * bar)))
                edge /= np.sqrt(1 + slope * slope)
                soft = max(dz * abs(cp - 2 * bow * v * sp), 0.05)
                far = abs(q - bow * v * v)
                if w > abs(v) and far < 0.5 * (thick + soft):
                    bits[r, c] |= HEAD if s * step > neck else STEM
                if edge <= 0:
                    continue
                rest = max(1 - edge / bevel, 0.0)
                half = 0.5 * thick * (np.sqrt(1 - rest * rest) + 0.5 * rest * (edge > 0.3 * bevel))
                length[r, c] += dz * min(max(0.5 + (half - far) / soft, 0.0), 1.0)
    return length


@njit(cache=True, fastmath=True)
def meet_plate(layer, length, index, clear, scale):
    """Let a thin body bend light by how the rays' way through it changes across them."""
    rows, cols = length.shape
    for r in range(1, rows - 1):
        for c in range(1, cols - 1):
            gx = (length[r, c + 1] - length[r, c - 1]) * 0.5 * scale
            gy = (length[r + 1, c] - length[r - 1, c]) * 0.5 * scale
            if length[r, c] == 0 and gx == 0 and gy == 0:
                continue
            layer[0, r, c] -= (index - 1) * gx
            layer[1, r, c] -= (index - 1) * gy
            loss = np.exp(-clear * length[r, c]) * (0.93 if length[r, c] > 0 else 1.0)
            layer[2, r, c] *= loss
            layer[3, r, c] *= loss


@njit(cache=True, fastmath=True)
def meet_crystal(layer, bits, center, planes, index, clear, look, lights, behind, bit, scale):
    """Trace a convex crystal, planes (nx, ny, nz, distance)."""
    rows, cols = bits.shape
    reach = 0.0
    for k in range(len(planes)):
        reach = max(reach, planes[k, 3])
    reach *= 2.5
    r0, r1 = max(int((center[1] - reach) * scale), 0), min(int((center[1] + reach) * scale), rows)
    c0, c1 = max(int((center[0] - reach) * scale), 0), min(int((center[0] + reach) * scale), cols)
    d = np.zeros(3)
    for r in range(r0, r1):
        for c in range(c0, c1):
            x, y = (c + 0.5) / scale - 0.5 - center[0], (r + 0.5) / scale - 0.5 - center[1]
            z0, z1, first = -1e9, 1e9, 0
            for k in range(len(planes)):
                rest = planes[k, 3] - planes[k, 0] * x - planes[k, 1] * y
                nz = planes[k, 2]
                if nz < -1e-6 and rest / nz > z0:
                    z0, first = rest / nz, k
                elif nz > 1e-6:
                    z1 = min(z1, rest / nz)
            if z1 <= z0:
                continue
            nx, ny, nz = planes[first, 0], planes[first, 1], planes[first, 2]
            a, b, g = bent(0.0, 0.0, 1.0, nx, ny, nz, 1.0 / index)
            path, last = 1e9, 0
            for k in range(len(planes)):
                along = planes[k, 0] * a + planes[k, 1] * b + planes[k, 2] * g
                if along > 1e-6:
                    rest = planes[k, 3] - planes[k, 0] * x - planes[k, 1] * y - planes[k, 2] * z0
                    if rest / along < path:
                        path, last = rest / along, k
            mx, my, mz = planes[last, 0], planes[last, 1], planes[last, 2]
            d[0], d[1], d[2] = bent(a, b, g, -mx, -my, -mz, index)
            base = ((index - 1) / (index + 1)) ** 2
            light = lit_by(nx, ny, nz, lights, behind, look)
            pass_on(layer, r, c, d, path, light, clear, base + (1 - base) * (1 + nz) ** 5)
            bits[r, c] |= bit


@njit(cache=True, fastmath=True)
def developed(layer, ground, behind, glow, strength, far, scale):
    """Return the picture: what each ray sees of the background and of the lamps behind."""
    rows, cols = ground.shape
    gray = np.zeros((rows, cols))
    straight = lamp_seen(0.0, 0.0, behind)
    for r in range(rows * scale):
        for c in range(cols * scale):
            ux, uy = layer[0, r, c], layer[1, r, c]
            i, j = r // scale, c // scale
            light = layer[3, r, c]
            if layer[2, r, c] > 0:
                if ux == 0 and uy == 0:
                    light += layer[2, r, c] * ground[i, j]
                else:
                    k = min(max(int(i + far * uy), 0), rows - 1)
                    m = min(max(int(j + far * ux), 0), cols - 1)
                    through = ground[k, m] * lamp_seen(ux, uy, behind) / straight
                    light += layer[2, r, c] * (through + strength * lamp_seen(ux, uy, glow))
            gray[i, j] += light / (scale * scale)
    return gray
