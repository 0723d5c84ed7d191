"""Pack the images that benchmarks.gpu measures with, about 55 MB: `python -m benchmarks.gpu.pack PATH PATH PATH`.

The arguments are a folder of jpgs, a folder of their masks, named as Kaggle's, and the folder to write. Of 200 cars,
four views are reduced to 1024 x 683 (width x height), to train on. Of ten other cars, six views are copied as they are,
to predict and to score. With fewer cars, a third of them is held out.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2

TRAIN_CARS, TRAIN_VIEWS = 200, (1, 5, 9, 13)
HELD_OUT_CARS, HELD_OUT_VIEWS = 10, (2, 4, 7, 10, 12, 15)
SIZE = (1024, 683)  # (width, height)


def pack(images: Path, masks: Path, out: Path) -> int:
    """Write the images and masks of both sides; return their size in bytes.

    Args:
        images: Folder of `<car>_<view>.jpg`.
        masks: Folder of `<car>_<view>_mask.gif`.
        out: New folder, for `train`, `train_masks`, `held_out` and `held_out_masks`.

    Raises:
        SystemExit: The folder exists, or there are fewer than two cars.
    """
    cars = sorted({path.stem.rpartition("_")[0] for path in images.glob("*.jpg")})
    if out.exists() or len(cars) < 2:
        raise SystemExit(
            f"{out} exists: choose a new folder." if out.exists() else f"{images}: too few cars."
        )
    held_out = min(HELD_OUT_CARS, -(-len(cars) // 3))
    sides = {
        "train": _existing(images, cars[:-held_out][:TRAIN_CARS], TRAIN_VIEWS),
        "held_out": _existing(images, cars[-held_out:], HELD_OUT_VIEWS),
    }
    for side, image_ids in sides.items():
        (out / side).mkdir(parents=True)
        (out / f"{side}_masks").mkdir()
        write = _write_reduced if side == "train" else shutil.copyfile
        for image_id in image_ids:
            write(images / f"{image_id}.jpg", out / side / f"{image_id}.jpg")
            shutil.copyfile(masks / f"{image_id}_mask.gif", out / f"{side}_masks" / f"{image_id}_mask.gif")
    return sum(path.stat().st_size for path in out.rglob("*.*"))


def _existing(images: Path, cars: Sequence[str], views: Sequence[int]) -> list[str]:
    """Return the ids of the images of these cars and views."""
    image_ids = (f"{car}_{view:02d}" for car in cars for view in views)
    return [image_id for image_id in image_ids if (images / f"{image_id}.jpg").is_file()]


def _write_reduced(source: Path, target: Path) -> object:
    image = cv2.imread(str(source))
    assert image is not None, source
    reduced = cv2.resize(image, SIZE, interpolation=cv2.INTER_AREA)
    return cv2.imwrite(str(target), reduced, [cv2.IMWRITE_JPEG_QUALITY, 80])


def main() -> None:
    """Pack the folders of the command line, and print the size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path, help="folder of jpgs")
    parser.add_argument("masks", type=Path, help="folder of masks named <image>_mask.gif")
    parser.add_argument("out", type=Path, help="new folder")
    arguments = parser.parse_args()
    size = pack(arguments.images, arguments.masks, arguments.out)
    counts = [len(list((arguments.out / side).iterdir())) for side in ("train", "held_out")]
    print(f"{arguments.out}: {counts[0]} images to train on, {counts[1]} held out, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
