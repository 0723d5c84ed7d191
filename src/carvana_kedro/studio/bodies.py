"""Cars: proportions of seven body styles, paints, and the smooth solid of the body.

Car coordinates: x forward, y to the left, z up, in meters; the origin is on the floor below the center of the car.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .settings import StudioSettings, generator

Array = np.ndarray


@dataclass(frozen=True)
class Style:
    """A body style. Sizes are in meters, positions are fractions of the length (from the nose) and of the height.

    Attributes:
        size: Length, width and height.
        axles: Positions of the front and rear wheels.
        roofline: Outline seen from the side, from nose to tail. The fifth point is the foot of the windscreen.
        belt: Height of the lower edge of the windows, front and rear.
        roof_width: Width of the roof as a fraction of the width.
        pillars: Positions of the pillars between the side windows, at the ends of the doors.
        windows_end: Position of the end of the last side window, at the belt.
        rear_glass: Height of the lower edge of the rear window.
    """

    name: str
    size: tuple[float, float, float]
    axles: tuple[float, float]
    wheel_radius: float
    clearance: float
    roofline: tuple[tuple[float, float], ...]
    belt: tuple[float, float]
    roof_width: float
    pillars: tuple[float, ...]
    windows_end: float
    rear_glass: float

    @property
    def is_tall(self) -> bool:
        """Whether the body is high enough for the lamps and plates of a tall car."""
        return self.name in ("suv", "pickup", "minivan")


# fmt: off
STYLES = (
    Style(
        "sedan", (4.80, 1.84, 1.45), (.195, .775), .325, .19,
        ((0, .46), (.025, .53), (.08, .59), (.16, .635), (.275, .68), (.36, .84), (.44, .96), (.52, 1),
         (.62, .985), (.7, .93), (.79, .81), (.865, .735), (.94, .72), (.985, .7), (1, .62)),
        (.63, .675), .74, (.525, .705), .8, .755,
    ),
    Style(
        "hatchback", (4.15, 1.77, 1.49), (.195, .815), .31, .18,
        ((0, .46), (.03, .54), (.08, .6), (.15, .635), (.255, .68), (.35, .85), (.43, .96), (.54, 1),
         (.7, .985), (.88, .92), (.93, .83), (.98, .64), (1, .58)),
        (.62, .68), .75, (.535, .745), .87, .7,
    ),
    Style(
        "suv", (4.70, 1.91, 1.73), (.19, .785), .37, .25,
        ((0, .52), (.025, .595), (.07, .635), (.15, .66), (.26, .68), (.34, .84), (.42, .955), (.53, 1),
         (.7, .99), (.9, .94), (.94, .84), (.985, .62), (1, .56)),
        (.62, .655), .78, (.525, .735), .92, .69,
    ),
    Style(
        "wagon", (4.80, 1.83, 1.48), (.19, .77), .33, .19,
        ((0, .46), (.025, .53), (.08, .59), (.16, .635), (.265, .68), (.35, .85), (.43, .955), (.53, 1),
         (.7, .985), (.89, .92), (.93, .82), (.985, .64), (1, .58)),
        (.63, .675), .74, (.52, .71), .93, .7,
    ),
    Style(
        "coupe", (4.60, 1.87, 1.36), (.19, .785), .335, .16,
        ((0, .45), (.025, .53), (.08, .6), (.17, .65), (.31, .7), (.39, .85), (.47, .96), (.54, 1),
         (.62, .985), (.72, .91), (.82, .81), (.9, .755), (.985, .735), (1, .65)),
        (.64, .7), .72, (.625,), .78, .785,
    ),
    Style(
        "pickup", (5.60, 1.98, 1.84), (.175, .8), .395, .3,
        ((0, .54), (.018, .605), (.05, .63), (.13, .65), (.25, .665), (.31, .84), (.365, .955), (.43, 1),
         (.53, .995), (.572, .96), (.6, .68), (.607, .665), (.985, .665), (1, .6)),
        (.62, .625), .78, (.445,), .565, .7,
    ),
    Style(
        "minivan", (5.10, 1.98, 1.75), (.19, .79), .345, .2,
        ((0, .42), (.025, .49), (.06, .55), (.12, .59), (.195, .63), (.29, .84), (.37, .955), (.49, 1),
         (.7, .99), (.91, .94), (.95, .82), (.985, .58), (1, .52)),
        (.585, .6), .78, (.475, .7), .94, .64,
    ),
)
# fmt: on

PAINTS = (  # name, fraction of all cars, sRGB, metallic
    ("white", 0.21, (226, 226, 222), 0.0),
    ("black", 0.20, (13, 13, 15), 0.2),
    ("gray", 0.16, (82, 86, 90), 0.7),
    ("silver", 0.155, (166, 169, 171), 0.85),
    ("blue", 0.09, (24, 47, 104), 0.5),
    ("red", 0.085, (138, 14, 18), 0.3),
    ("beige", 0.035, (158, 144, 118), 0.6),
    ("green", 0.03, (22, 62, 44), 0.5),
    ("orange", 0.02, (198, 84, 18), 0.3),
    ("yellow", 0.015, (206, 170, 24), 0.1),
)


@dataclass(frozen=True)
class Form:
    """Constants of the body's solid. The defaults are those of the sample.

    Attributes:
        bend: Curvature of the nose, the windscreen and the tail, seen from above, per meter.
        crown: Curvature of the roof across the car, per meter.
        nose: Narrowing toward the nose, as a fraction of the width.
        tail: The same toward the tail.
        flare: Height of the wheel flares, meters.
        crease: Height of the crease along the side, meters.
        crease_level: Its height above the floor, as a fraction of the car's.
        shoulder: Radius between side and top, meters.
        front: Radius between nose and sides, meters.
        back: Radius between tail and sides, meters.
        face: Factor of the profile of the nose.
        rump: The same of the tail.
        corner: Rounding of the four corners seen from above, as a factor.
        lift: Slope of the underside toward nose and tail.
    """

    bend: float = 0.17
    crown: float = 0.07
    nose: float = 0.10
    tail: float = 0.07
    flare: float = 0.022
    crease: float = 0.013
    crease_level: float = 0.545
    shoulder: float = 0.14
    front: float = 0.12
    back: float = 0.10
    face: float = 1.0
    rump: float = 1.0
    corner: float = 1.0
    lift: float = 0.07


@dataclass(frozen=True)
class Car:
    """One car: a style with individual proportions and paint. All lengths are in meters.

    Attributes:
        paint: Linear RGB, `(3,)` float32.
        metallic: Fraction of the light that the flakes of the paint reflect, 0 to 1.
        clearance: Height of the body above the floor.
        axles: x of the front and rear wheels.
        stations: x of the points of the roofline.
        roofline: Height of the upper surface in the middle of the car, at each of `stations`.
        form: Constants of the solid.
    """

    style: Style
    paint_name: str
    paint: Array
    metallic: float
    length: float
    width: float
    height: float
    wheel_radius: float
    clearance: float
    axles: tuple[float, float]
    stations: Array
    roofline: Array
    spokes: int
    dark_glass: bool
    chrome: bool
    form: Form = Form()

    def x(self, fraction: float) -> float:
        """Return the x of a position given as a fraction of the length from the nose."""
        return self.length * (0.5 - fraction)

    def belt(self, x: Array | float) -> Array:
        """Return the height of the lower edge of the windows."""
        front, rear = (part * self.height for part in self.style.belt)
        return front + (rear - front) * np.clip(0.7 - x / self.length, 0, 1)

    def top(self, x: Array | float, y: Array | float) -> Array:
        """Return the height of the upper surface (hood, glass, roof and tail), which curves to the sides."""
        bent = x + self.form.bend * y * y * np.tanh(4 * x / self.length)
        return np.interp(bent, self.stations, self.roofline).astype(np.float32) - self.form.crown * y * y

    def half_width(self, x: Array | float, z: Array | float) -> Array:
        """Return half the width of the side surface, with its slopes, wheel flares and creases."""
        form, low, high = self.form, self.clearance, self.height
        heights = (low - 0.1, low + 0.06, 0.30 * high, 0.42 * high, 0.655 * high, high)
        section = np.interp(z, heights, (0.90, 0.955, 0.985, 1.0, 0.965, self.style.roof_width))
        nose = np.clip((x - self.axles[0]) / (self.length / 2 - self.axles[0]), 0, 1)
        tail = np.clip((self.axles[1] - x) / (self.length / 2 + self.axles[1]), 0, 1)
        half = self.width / 2 * section * (1 - form.nose * nose**2 - form.tail * tail**2)
        for axle in self.axles:
            distance = np.hypot(x - axle, z - self.wheel_radius) / self.wheel_radius
            half = half + form.flare * np.clip((1.6 - distance) / 0.5, 0, 1) ** 2
        crease = z - form.crease_level * high + 0.02 * x
        half = half + form.crease * np.clip(1 - np.abs(crease) / 0.09, 0, 1) ** 2
        rocker = z - 0.235 * high
        return half - 0.014 * np.exp(-((rocker / 0.05) ** 2))

    def solid(self, x: Array, y: Array, z: Array) -> Array:
        """Return a smooth field: about the distance to the surface of the body, and negative inside the body."""
        form, wide, level = self.form, np.abs(y), z / self.height
        edge = (wide / (self.width / 2)) ** 2
        shape = smooth_max(wide - self.half_width(x, z), z - self.top(x, y), form.shoulder)
        face = form.face * np.interp(
            level, (0.1, 0.2, 0.30, 0.36, 0.48, 0.6, 0.8), (-0.10, -0.03, 0, 0, -0.03, -0.09, -0.3)
        )
        ahead = x - self.length / 2 - face + form.corner * 0.10 * edge + form.corner * 0.13 * edge**3
        shape = smooth_max(shape, ahead, form.front)
        back = form.rump * np.interp(
            level, (0.1, 0.2, 0.31, 0.38, 0.42, 0.7, 0.9), (-0.10, -0.04, 0, 0, -0.035, -0.06, -0.2)
        )
        behind = -x - self.length / 2 - back + form.corner * 0.07 * edge + form.corner * 0.10 * edge**3
        shape = smooth_max(shape, behind, form.back)
        ends = np.clip(np.abs(x) - 0.36 * self.length, 0, None) * form.lift
        return smooth_max(shape, self.clearance + ends - z, 0.06)


def smooth_max(a: Array, b: Array, radius: float) -> Array:
    """Return the larger of two fields, rounded where they meet."""
    return np.maximum(a, b) + np.maximum(radius - np.abs(a - b), 0) ** 2 / (4 * radius)


def smooth_roofline(knots: Array, length: float, height: float, sigma: float) -> tuple[Array, Array]:
    """Return `stations` and `roofline` of a car.

    Args:
        knots: `(N, 2)`, a roofline as in `Style`. It is scaled so that its highest point has `height`.
        length: Length of the car, meters.
        height: Height of the car, meters.
        sigma: Standard deviation of the rounding, centimeters.
    """
    stations = np.arange(-length / 2 - 0.5, length / 2 + 0.5, 0.01)
    roofline = np.interp(0.5 - stations / length, knots[:, 0], knots[:, 1] / knots[:, 1].max()) * height
    return stations, cv2.GaussianBlur(roofline[None].astype(np.float32), (0, 0), sigma)[0]


def to_linear(srgb: Sequence[float]) -> Array:
    """Convert an 8-bit sRGB color to linear RGB, `(3,)` float32."""
    return ((np.asarray(srgb, np.float32) / 255) ** 2.2).astype(np.float32)


def design_car(settings: StudioSettings, car: int) -> Car:
    """Return car number `car`. Any twelve consecutive cars include every style and every common paint."""
    fleet, own = generator(settings), generator(settings, car)
    style = STYLES[fleet.permutation(len(STYLES))[car % len(STYLES)]]
    # Golden-ratio steps through the cumulative fractions leave no gap as wide as that of a common paint.
    position = (fleet.random() + car * 0.6180339887) % 1
    upto = np.cumsum([share for _, share, _, _ in PAINTS])
    paint = PAINTS[min(int(np.searchsorted(upto, position)), len(PAINTS) - 1)]
    length, width, height = np.array(style.size) * own.uniform((0.955, 0.97, 0.965), (1.045, 1.03, 1.035))
    knots = np.array(style.roofline)
    knots[1:-1] += own.normal(0, (0.005, 0.007), (len(knots) - 2, 2)) * (knots[1:-1, 1:] < 0.99)
    stations, roofline = smooth_roofline(knots, length, height, 4.5 if style.name != "pickup" else 3)
    tint = own.uniform(0.85, 1.15) * own.uniform(0.96, 1.04, 3)
    return Car(
        style=style,
        paint_name=paint[0],
        paint=to_linear(paint[2]) * tint.astype(np.float32),
        metallic=paint[3],
        length=float(length),
        width=float(width),
        height=float(height),
        wheel_radius=style.wheel_radius * float(own.uniform(0.97, 1.04)),
        clearance=style.clearance * float(own.uniform(0.92, 1.08)),
        axles=(float(length * (0.5 - style.axles[0])), float(length * (0.5 - style.axles[1]))),
        stations=stations,
        roofline=roofline,
        spokes=int(own.choice((5, 6, 7, 10))),
        dark_glass=bool(own.random() < 0.45) and style.name in ("suv", "minivan", "pickup"),
        chrome=bool(own.random() < 0.5),
    )
