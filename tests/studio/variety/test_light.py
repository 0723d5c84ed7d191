import numpy as np

from carvana_kedro.studio import StudioSettings
from carvana_kedro.studio.settings import generator
from carvana_kedro.studio.variety.light import vary_light
from carvana_kedro.studio.variety.sensor import _compressed, develop

SETTINGS = StudioSettings()


def test_tones_never_fall_and_keep_dark_and_bright_apart() -> None:
    for number in range(40):
        tones = vary_light(generator(SETTINGS, number), 0.8, 0.5).tones.astype(int)
        assert tones.shape == (256, 3)
        assert (np.diff(tones, axis=0) >= 0).all()
        assert (tones[230] - tones[20]).min() > 120


def test_what_the_paint_mirrors_is_as_bright_as_the_room() -> None:
    bright, dark = (
        [
            vary_light(generator(SETTINGS, number), level, level).light.mirrored[..., 0].mean()
            for number in range(20)
        ]
        for level in (0.9, 0.05)
    )
    assert np.mean(bright) > 2 * np.mean(dark)
    assert min(dark) > 0


def test_a_developed_image_shows_the_same_picture() -> None:
    image = np.zeros((128, 192, 3), np.uint8)
    image[32:96, 48:144] = (200, 120, 60)
    results = [develop(image.copy(), generator(SETTINGS, number)) for number in range(20)]
    for result in results:
        assert (result.shape, result.dtype) == (image.shape, np.uint8)
        assert np.abs(result.astype(int) - image).mean() < 12
        assert (result[40:88, 56:136].mean((0, 1)) > (140, 80, 30)).all()
    assert any((result != results[0]).any() for result in results[1:])


def test_compression_keeps_red_better_than_blue() -> None:
    """Red has a larger part of the luma, which JPEG stores in full resolution."""
    noise, errors = np.random.default_rng(0).integers(0, 256, (64, 64)), []
    for channel in (0, 2):
        image = np.full((64, 64, 3), 128, np.uint8)
        image[..., channel] = noise
        errors.append(np.abs(_compressed(image, 80).astype(int) - image)[..., channel].mean())
    assert errors[0] < 0.9 * errors[1]
