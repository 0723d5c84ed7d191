"""Colors that people with and without all types of cones can tell apart (Okabe & Ito 2008). RGB, 0..255."""

Color = tuple[int, int, int]

ORANGE: Color = (230, 159, 0)
BLUISH_GREEN: Color = (0, 158, 115)
BLUE: Color = (0, 114, 178)
VERMILION: Color = (213, 94, 0)

BLACK: Color = (0, 0, 0)
WHITE: Color = (255, 255, 255)
