"""More body styles, and styles between two others."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from carvana_kedro.studio.bodies import STYLES, Style

# fmt: off
_MORE = (
    Style(
        "hatchback", (3.60, 1.64, 1.51), (.185, .83), .29, .16,
        ((0, .42), (.03, .52), (.09, .60), (.15, .635), (.24, .68), (.36, .87), (.44, .96), (.56, 1),
         (.72, .985), (.86, .92), (.93, .78), (.985, .6), (1, .54)),
        (.62, .66), .76, (.56,), .84, .69,
    ),
    Style(
        "hatchback", (3.85, 1.73, 1.42), (.165, .845), .31, .15,
        ((0, .46), (.025, .57), (.09, .62), (.18, .64), (.285, .68), (.35, .87), (.41, .96), (.5, 1),
         (.75, .985), (.93, .95), (.965, .85), (.99, .62), (1, .56)),
        (.655, .67), .80, (.58,), .93, .70,
    ),
    Style(
        "sedan", (4.95, 1.88, 1.43), (.185, .785), .345, .16,
        ((0, .45), (.025, .53), (.08, .60), (.16, .64), (.265, .68), (.36, .85), (.44, .96), (.52, 1),
         (.62, .985), (.74, .915), (.86, .80), (.95, .735), (.985, .7), (1, .62)),
        (.645, .69), .73, (.53, .71), .815, .76,
    ),
    Style(
        "coupe", (4.25, 1.80, 1.31), (.19, .79), .325, .14,
        ((0, .45), (.025, .54), (.09, .61), (.18, .655), (.31, .70), (.385, .86), (.44, .96), (.51, 1),
         (.60, .975), (.67, .88), (.73, .775), (.79, .74), (.98, .72), (1, .64)),
        (.67, .69), .74, (.60,), .69, .80,
    ),
    Style(
        "coupe", (4.50, 1.92, 1.24), (.185, .79), .345, .12,
        ((0, .40), (.025, .49), (.08, .57), (.17, .64), (.29, .71), (.38, .86), (.46, .965), (.53, 1),
         (.62, .985), (.74, .91), (.86, .82), (.95, .76), (.985, .74), (1, .62)),
        (.69, .74), .70, (.60,), .74, .80,
    ),
    Style(
        "suv", (4.55, 1.87, 1.84), (.165, .80), .39, .27,
        ((0, .55), (.012, .63), (.05, .655), (.15, .665), (.27, .685), (.31, .86), (.345, .96), (.42, 1),
         (.7, 1), (.95, .985), (.975, .9), (.995, .6), (1, .55)),
        (.655, .66), .86, (.50, .72), .955, .68,
    ),
    Style(
        "suv", (5.40, 2.03, 1.90), (.175, .785), .395, .25,
        ((0, .54), (.02, .61), (.06, .645), (.13, .66), (.225, .68), (.295, .84), (.36, .955), (.46, 1),
         (.7, .995), (.92, .965), (.955, .87), (.99, .6), (1, .54)),
        (.63, .645), .81, (.45, .665), .945, .68,
    ),
    Style(
        "suv", (4.65, 1.92, 1.64), (.19, .79), .37, .21,
        ((0, .50), (.025, .58), (.07, .63), (.15, .655), (.26, .685), (.35, .85), (.43, .955), (.53, 1),
         (.66, .98), (.82, .89), (.92, .76), (.985, .64), (1, .56)),
        (.64, .69), .76, (.53, .735), .87, .73,
    ),
    Style(
        "minivan", (5.20, 1.99, 1.99), (.175, .79), .345, .19,
        ((0, .40), (.02, .47), (.05, .525), (.09, .56), (.15, .60), (.25, .83), (.31, .955), (.42, 1),
         (.7, 1), (.94, .98), (.965, .9), (.99, .56), (1, .5)),
        (.56, .565), .84, (.40, .66), .95, .62,
    ),
    Style(
        "pickup", (5.85, 2.01, 1.90), (.165, .805), .405, .31,
        ((0, .55), (.015, .62), (.05, .645), (.12, .66), (.225, .675), (.285, .84), (.335, .955), (.40, 1),
         (.56, .995), (.60, .96), (.63, .68), (.637, .665), (.985, .665), (1, .6)),
        (.62, .625), .79, (.40, .555), .6, .7,
    ),
    Style(  # a bed that the cab's pillars slope down to
        "pickup", (5.62, 2.01, 1.93), (.175, .80), .40, .29,
        ((0, .54), (.018, .61), (.05, .64), (.13, .655), (.235, .67), (.30, .84), (.355, .955), (.42, 1),
         (.57, .995), (.615, .95), (.66, .83), (.74, .67), (.985, .665), (1, .6)),
        (.62, .63), .79, (.415, .57), .615, .7,
    ),
    Style(  # high, with a long bed
        "pickup", (6.05, 2.03, 1.99), (.165, .795), .42, .36,
        ((0, .575), (.012, .635), (.04, .665), (.12, .675), (.21, .69), (.265, .84), (.315, .955), (.375, 1),
         (.51, .995), (.545, .96), (.575, .69), (.582, .68), (.985, .68), (1, .61)),
        (.645, .65), .80, (.375, .51), .55, .72,
    ),
    Style(  # a box with a flat roof
        "wagon", (5.05, 1.93, 1.70), (.175, .785), .36, .19,
        ((0, .53), (.015, .61), (.05, .64), (.14, .655), (.255, .68), (.31, .86), (.35, .955), (.44, 1),
         (.7, .995), (.93, .975), (.96, .88), (.99, .6), (1, .54)),
        (.645, .655), .84, (.48, .69), .945, .68,
    ),
)
# fmt: on
ALL_STYLES = STYLES + _MORE
_FAMILIES = (("sedan", "coupe", "wagon", "hatchback"), ("suv", "minivan", "wagon"), ("pickup",))
_REAR = 9  # points of a blended roofline behind the foot of the windscreen


def blend_style(rng: np.random.Generator) -> Style:
    """Return a style between two that resemble each other. Its name and doors are those of the nearer one."""
    first = ALL_STYLES[rng.integers(len(ALL_STYLES))]
    family = next(names for names in _FAMILIES if first.name in names)
    others = [style for style in ALL_STYLES if style.name in family]
    second, share = others[rng.integers(len(others))], rng.uniform(0, 0.5)

    def mixed(a: Sequence[float], b: Sequence[float]) -> Any:
        return tuple((np.array(a) * (1 - share) + np.array(b) * share).tolist())

    roofline = _resampled(first) * (1 - share) + _resampled(second) * share
    return Style(
        name=first.name,
        size=mixed(first.size, second.size),
        axles=mixed(first.axles, second.axles),
        wheel_radius=first.wheel_radius * (1 - share) + second.wheel_radius * share,
        clearance=first.clearance * (1 - share) + second.clearance * share,
        roofline=tuple(map(tuple, roofline.tolist())),
        belt=mixed(first.belt, second.belt),
        roof_width=first.roof_width * (1 - share) + second.roof_width * share,
        pillars=first.pillars,
        windows_end=first.windows_end * (1 - share) + second.windows_end * share,
        rear_glass=first.rear_glass * (1 - share) + second.rear_glass * share,
    )


def _resampled(style: Style) -> np.ndarray:
    """Return the roofline with `_REAR` points behind its fifth one, `(5 + _REAR, 2)`."""
    points = np.array(style.roofline)
    if style.name == "pickup":
        return points  # all have as many points, and their corners must stay
    place = np.linspace(4, len(points) - 1, _REAR + 1)[1:]
    rear = [np.interp(place, np.arange(len(points)), side) for side in points.T]
    return np.concatenate((points[:5], np.stack(rear, 1)))
