import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from carvana_kedro.errors import UserError
from carvana_kedro.stores.digests import Digests
from carvana_kedro.stores.images import kept_masks
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.images.kept_masks import KeptMasks

MASK = (np.indices((7, 13)).sum(0) % 3 == 0).astype(np.uint8)


def refuse(content: bytes) -> np.ndarray:
    raise AssertionError("decoded again")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """Return a store of one mask that is kept beside the memory of the digests."""
    _save(tmp_path / "car_mask.gif", MASK)
    return ImageStore(tmp_path, tmp_path, digests=Digests(tmp_path / "memory" / "digests.sqlite"))


def _save(path: Path, mask: np.ndarray) -> None:
    image = Image.fromarray(mask, "P")
    image.putpalette((0, 0, 0, 255, 255, 255))
    image.save(path)


def _kept(store: ImageStore) -> list[Path]:
    return sorted((store.images / "memory" / "masks").glob("*"))


@given(
    arrays.arrays(
        np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1)
    )
)
def test_packed_bits_are_the_mask(mask: np.ndarray) -> None:
    assert np.array_equal(kept_masks._unpack(kept_masks._pack(mask)), mask)


def test_a_mask_is_decoded_once_for_each_content(tmp_path: Path) -> None:
    kept = KeptMasks(tmp_path / "masks")
    assert np.array_equal(kept.mask_of(b"1", lambda content: MASK), MASK)
    again = KeptMasks(tmp_path / "masks").mask_of(b"1", refuse)
    assert np.array_equal(again, MASK)
    assert (again.dtype, again.flags.writeable) == (np.uint8, True)
    assert np.array_equal(kept.mask_of(b"2", lambda content: 1 - MASK), 1 - MASK)


def test_without_a_folder_nothing_is_kept() -> None:
    kept = KeptMasks()
    assert [kept.mask_of(b"1", lambda content, mask=mask: mask) is mask for mask in (MASK, 1 - MASK)] == [
        True,
        True,
    ]


@pytest.mark.parametrize("damage", [lambda old: b"", lambda old: old[:-1], lambda old: b"x" + old[1:]])
def test_a_damaged_file_is_replaced(store: ImageStore, damage: object) -> None:
    store.read_mask("car")
    (path,) = _kept(store)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))  # type: ignore[operator]
    assert np.array_equal(store.read_mask("car"), MASK)
    assert path.read_bytes() == whole


def test_a_store_keeps_its_masks_and_sees_changed_files(store: ImageStore) -> None:
    assert np.array_equal(store.read_mask("car"), MASK)
    assert np.array_equal(pickle.loads(pickle.dumps(store)).read_mask("car"), MASK)
    assert len(_kept(store)) == 1
    _save(store.images / "car_mask.gif", 1 - MASK)
    assert np.array_equal(store.read_mask("car"), 1 - MASK)
    assert len(_kept(store)) == 2


def test_a_file_that_is_not_a_mask_is_refused_each_time(store: ImageStore) -> None:
    Image.new("RGB", (4, 4), (1, 2, 3)).save(store.images / "car_mask.gif")
    for _ in range(2):
        with pytest.raises(UserError, match="has colors other than black and white"):
            store.read_mask("car")
    assert not _kept(store)


def test_a_folder_that_cannot_be_written_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    kept = KeptMasks(tmp_path / "file" / "masks")
    with caplog.at_level(logging.WARNING):
        assert [kept.mask_of(b"1", lambda content: MASK) is MASK for _ in range(2)] == [True, True]
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("Decoded masks are not kept, and are decoded at each reading: ")


def test_what_another_decoder_has_kept_is_not_used(tmp_path: Path) -> None:
    for number in range(2):
        kept = KeptMasks(tmp_path, bytes([number]))
        mask = np.full((2, 3), number, np.uint8)
        assert np.array_equal(kept.mask_of(b"content", lambda _, mask=mask: mask), mask)
        assert np.array_equal(kept.mask_of(b"content", refuse), mask)
