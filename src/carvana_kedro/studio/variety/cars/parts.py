"""What is attached to a body: rails, wings, steps, bars, mirrors, axles, lamps and a spare wheel."""

from dataclasses import dataclass

import numpy as np

from carvana_kedro.studio.bodies import Car
from carvana_kedro.studio.surfaces import COLUMNS, Surface, ellipsoid, stack, windscreen_foot
from carvana_kedro.studio.variety.draws import chance

Array = np.ndarray
STRIDE = 4
"""Grid steps per face: parts are small."""


@dataclass(frozen=True)
class Part:
    """Attached surfaces of one material. The color is linear RGB."""

    surface: Surface
    color: tuple[float, ...]
    metallic: float = 0.0
    metal: float = 0.0
    painted: bool = False


def attach_parts(car: Car, rng: np.random.Generator) -> tuple[Part, ...]:
    """Return what is attached to a car, one part per material."""
    painted: list[Surface] = []
    bright: list[Surface] = []
    black = [_axle(car, x) for x in car.axles if chance(rng, 0.7)]
    name, tall = car.style.name, car.style.is_tall
    trim = (bright, black, painted)[rng.choice(3, p=(0.35, 0.5, 0.15))]
    if name in ("suv", "wagon", "minivan", "hatchback"):
        if chance(rng, 0.4):
            trim += _rails(car, rng)
        if chance(rng, 0.5):
            painted += _roof_spoiler(car, rng)
    elif name != "pickup" and chance(rng, 0.3):
        (painted if chance(rng, 0.6) else black).extend(_wing(car, rng))
    if chance(rng, 0.04):
        black += _roof_box(car)
    if chance(rng, 0.45):
        black += _antenna(car, rng)
    if tall and chance(rng, 0.45):
        trim += _steps(car, rng)
    if tall and name != "minivan" and chance(rng, 0.18):
        trim += _bull_bar(car, rng)
    if name == "pickup":
        trim += _roll_bar(car) if chance(rng, 0.2) else []
        bright += _rear_bumper(car) if chance(rng, 0.5) else []
    if name == "suv" and chance(rng, 0.15):
        black.append(ellipsoid((0.12, 0.36, 0.36), 0.5).moved((-car.length / 2 - 0.04, 0, 0.56 * car.height)))
    if chance(rng, 0.12):
        black += _mud_flaps(car)
    if chance(rng, 0.5):
        bright += _exhausts(car, rng)
    paint = tuple(float(part) for part in car.paint)
    materials = (
        (painted, paint, car.metallic, 0.0),
        (black, (0.014,) * 3, 0.0, 0.05),
        (bright, (0.6,) * 3, 0.0, 0.85),
    )
    return tuple(
        Part(stack_parts(found), color, flakes, metal, painted=found is painted)
        for found, color, flakes, metal in materials
        if found
    )


def stack_parts(surfaces: list[Surface]) -> Surface:
    """Join surfaces so that each begins at a multiple of `STRIDE`.

    `rasterize` leaves out one face at a seam. At another row, the face there would join two surfaces, and a face of one
    of them would be left out. So the last row of each surface is repeated.
    """
    return stack([_padded(surface) for surface in surfaces])


def _padded(surface: Surface) -> Surface:
    missing = ((0, -len(surface.points) % STRIDE), (0, 0), (0, 0))
    points, normals = (np.pad(grid, missing, "edge") for grid in (surface.points, surface.normals))
    return Surface(points, normals, surface.seams)


def vary_mirror(car: Car, side: int, rng: np.random.Generator) -> Surface:
    """Return an outside mirror of any size, near the body or on an arm."""
    x = car.x(windscreen_foot(car)) - rng.uniform(0.30, 0.55)
    z = float(car.belt(x)) + rng.uniform(0.05, 0.13)
    towing = car.style.name == "pickup" and chance(rng, 0.4)
    wide, high = rng.uniform(0.09, 0.13), rng.uniform(0.055, 0.09) * (1.7 if towing else 1)
    away = wide - 0.01 + (rng.uniform(0.04, 0.14) if towing or chance(rng, 0.3) else 0)
    y = side * (float(car.half_width(x, z)) + away)
    head = ellipsoid((rng.uniform(0.05, 0.09), wide, high), rng.uniform(0.45, 0.9)).moved((x, y, z))
    arm = tube(np.array(((x, y, z - 0.3 * high), (x, y - side * (away + 0.06), z - 0.5 * high))), 0.022)
    return stack([head, arm])


def tube(path: Array, radius: float) -> Surface:
    """Return a round bar along `path`, `(N, 3)` meters, with flat ends."""
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    guide = np.array((0.0, 0.0, 1.0)) if np.abs(along[:, 2]).max() < 0.9 else np.array((0.31, 0.95, 0.02))
    first = np.cross(guide, along)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(along, first)
    angle = np.linspace(0, 2 * np.pi, COLUMNS + 1)[:, None]
    around = first[:, None] * np.cos(angle) + second[:, None] * np.sin(angle)
    start, end = (np.broadcast_to(path[place], around[:1].shape) for place in (0, -1))
    before, behind = (np.broadcast_to(sign * along[place], start.shape) for place, sign in ((0, -1), (-1, 1)))
    points = np.concatenate((start, path[:, None] + radius * around, end))
    normals = np.concatenate((before, around, behind))
    return Surface(_refined(points).astype(np.float32), _refined(normals).astype(np.float32))


def _refined(rows: Array) -> Array:
    """Insert rows between any two, so that all are drawn with a stride of `STRIDE`."""
    place = np.arange(STRIDE * (len(rows) - 1) + 1)[:, None, None] / STRIDE
    before = np.minimum(place.astype(int), len(rows) - 2)
    share = place - before
    return rows[before[:, 0, 0]] * (1 - share) + rows[before[:, 0, 0] + 1] * share


def _box(size: tuple[float, float, float], place: tuple[float, float, float]) -> Surface:
    return ellipsoid(size, 0.2).moved(place)


def _axle(car: Car, x: float) -> Surface:
    half = car.width / 2 - 0.2
    return tube(np.array(((x, -half, car.wheel_radius), (x, 0, car.wheel_radius - 0.03), (x, half, car.wheel_radius))),
                0.055)  # fmt: skip


def _roof_y(car: Car) -> float:
    return 0.80 * car.style.roof_width * car.width / 2


def _rails(car: Car, rng: np.random.Generator) -> list[Surface]:
    """Return two rails along the roof, perhaps with bars across."""
    start, end = (
        car.x(windscreen_foot(car)) - 0.85,
        max(car.x(car.style.windows_end) + 0.35, -car.length / 2 + 0.45),
    )
    gap, radius, y = rng.uniform(0.015, 0.07), rng.uniform(0.014, 0.026), _roof_y(car)
    x = np.linspace(start, end, 15)
    lift = gap * np.clip(7 * np.sin(np.linspace(0, np.pi, 15)), 0, 1)
    height = car.top(x, y) + lift + 0.005
    rails = [tube(np.stack((x, np.full(15, side * y), height), 1), radius) for side in (-1, 1)]
    if chance(rng, 0.4):
        for place in (0.25, 0.7):
            at = start + place * (end - start)
            z = float(car.top(at, 0)) + gap + 0.02
            rails.append(tube(np.array(((at, -y, z - 0.01), (at, 0, z + 0.01), (at, y, z - 0.01))), 0.02))
    return rails


def _tail_x(car: Car, height: float) -> float:
    """Return the x of the tail at a fraction of the car's height."""
    behind = car.stations < -0.1 * car.length
    return float(np.interp(height * car.height, car.roofline[behind], car.stations[behind]))


def _roof_spoiler(car: Car, rng: np.random.Generator) -> list[Surface]:
    x, half = _tail_x(car, 0.90), 0.9 * car.style.roof_width * car.width / 2
    size = rng.uniform(0.06, 0.15), half, rng.uniform(0.012, 0.03)
    return [_box(size, (x + 0.2 * size[0], 0, float(car.top(x + size[0], 0.3)) - 0.01))]


def _wing(car: Car, rng: np.random.Generator) -> list[Surface]:
    """Return a wing on two struts above the trunk, with a gap below it."""
    x, half = -car.length / 2 + rng.uniform(0.08, 0.3), rng.uniform(0.34, 0.46) * car.width
    deck, gap = float(car.top(x, 0.3)), rng.uniform(0.05, 0.28)
    blade = _box((rng.uniform(0.08, 0.16), half, rng.uniform(0.012, 0.025)), (x, 0, deck + gap))
    at = half * rng.uniform(0.5, 0.95)
    struts = [_box((0.05, 0.015, gap / 2 + 0.04), (x, side * at, deck + gap / 2 - 0.03)) for side in (-1, 1)]
    return [blade, *struts]


def _roof_box(car: Car) -> list[Surface]:
    x = car.x(windscreen_foot(car)) - 1.35
    return [ellipsoid((0.75, 0.4, 0.16), 0.5).moved((x, 0.1, car.height + 0.2)),
            _box((0.03, _roof_y(car), 0.03), (x + 0.4, 0, car.height + 0.03)),
            _box((0.03, _roof_y(car), 0.03), (x - 0.4, 0, car.height + 0.03))]  # fmt: skip


def _antenna(car: Car, rng: np.random.Generator) -> list[Surface]:
    if chance(rng, 0.6):  # a fin on the roof
        x = car.x(car.style.windows_end) + 0.35
        return [ellipsoid((0.09, 0.018, 0.05), 0.9).moved((x, 0, float(car.top(x, 0)) + 0.02))]
    x = car.axles[0] - 0.3
    y, z = 0.42 * car.width, float(car.top(x, 0.4 * car.width))
    return [tube(np.array(((x, y, z), (x - 0.15, y, z + rng.uniform(0.3, 0.7)))), 0.006)]


def _steps(car: Car, rng: np.random.Generator) -> list[Surface]:
    """Return a step along each sill, perhaps with a gap above it."""
    front, back = (
        axle - side * 1.3 * car.wheel_radius for axle, side in zip(car.axles, (1, -1), strict=True)
    )
    y, z = car.width / 2 - rng.uniform(-0.02, 0.1), car.clearance - rng.uniform(-0.06, 0.06)
    x = np.linspace(front, back, 9)
    inward = 0.16 * np.abs(np.linspace(-1, 1, 9)) ** 8
    radius = rng.uniform(0.03, 0.05)
    return [tube(np.stack((x, side * (y - inward), z + 0.6 * inward), 1), radius) for side in (-1, 1)]


def _bull_bar(car: Car, rng: np.random.Generator) -> list[Surface]:
    x, half = car.length / 2 + rng.uniform(0.03, 0.1), rng.uniform(0.3, 0.42) * car.width
    low, high = _underside(car) + 0.05, rng.uniform(0.42, 0.56) * car.height
    hoop = np.array([(-half, low), (-half, high - 0.08), (-half + 0.1, high), (half - 0.1, high), (half, high - 0.08),
                     (half, low)])  # fmt: skip
    bars = [tube(np.c_[np.full(6, x), hoop], 0.032)]
    level = (low + high) / 2
    return [*bars, tube(np.array(((x, -half, level), (x + 0.02, 0, level), (x, half, level))), 0.028)]


def _roll_bar(car: Car) -> list[Surface]:
    """Return a bar over the bed behind the cab."""
    x, half, low = car.x(car.style.windows_end) - 0.45, 0.40 * car.width, 0.62 * car.height
    high = 0.95 * car.height
    hoop = np.array([(-half, low), (-half + 0.04, high - 0.1), (-half + 0.14, high), (half - 0.14, high),
                     (half - 0.04, high - 0.1), (half, low)])  # fmt: skip
    legs = [
        tube(np.array(((x, side * (half - 0.06), high - 0.1), (x - 0.7, side * half, low))), 0.03)
        for side in (-1, 1)
    ]
    return [tube(np.c_[np.full(6, x), hoop], 0.035), *legs]


def _underside(car: Car) -> float:
    """Return the height of the body's lower edge at nose and tail."""
    return car.clearance + 0.14 * car.length * car.form.lift


def _rear_bumper(car: Car) -> list[Surface]:
    return [_box((0.08, 0.46 * car.width, 0.08), (-car.length / 2 - 0.02, 0, _underside(car) + 0.12))]


def _mud_flaps(car: Car) -> list[Surface]:
    size = 0.012, 0.11, 0.3 * car.wheel_radius
    places = [
        (axle - 1.12 * car.wheel_radius, side * (car.width / 2 - 0.15))
        for axle in car.axles
        for side in (-1, 1)
    ]
    return [_box(size, (x, y, 0.12 + size[2])) for x, y in places]


def _exhausts(car: Car, rng: np.random.Generator) -> list[Surface]:
    y, z, x = rng.uniform(0.2, 0.36) * car.width, _underside(car) + 0.03, -car.length / 2
    sides, radius = (-1, 1) if chance(rng, 0.4) else (1,), rng.uniform(0.025, 0.045)
    return [tube(np.array(((x + 0.25, side * y, z), (x + 0.02, side * y, z))), radius) for side in sides]
