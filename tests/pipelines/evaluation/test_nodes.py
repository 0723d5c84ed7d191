import shutil
from pathlib import Path

import pytest

from carvana_kedro.errors import UserError
from carvana_kedro.image_index import index_images
from carvana_kedro.parameters import Inference
from carvana_kedro.pipelines.evaluation.nodes import score_model, select_unseen_images
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.images.folder import FolderStore
from models import RECIPE, blind, changed


@pytest.fixture
def trained(model: TrainedModel) -> TrainedModel:
    """A model that was trained on another source."""
    return changed(model, best_threshold=0.42, source="another", validation_cars=("a car",))


def test_a_model_is_scored_on_all_images_of_another_source(
    trained: TrainedModel, training_images: ImageStore
) -> None:
    index = select_unseen_images(training_images, trained)
    assert index["image"].tolist() == training_images.ids()
    parameters = Inference(threshold="auto", flip=True)
    scores, means, curve = score_model(trained, index, training_images, parameters, RECIPE)
    assert set(scores["image"]) == set(training_images.ids())
    assert means["threshold"] == 0.42
    assert means["images"] == len(scores) == 16
    assert curve["dice"][42] == pytest.approx(means["dice"], abs=1e-3)
    assert means["dice"] > 0
    _, averaged, _ = score_model(
        TrainedModel.join([trained, blind(trained), blind(trained)]),
        index,
        training_images,
        parameters,
        RECIPE,
    )
    assert averaged["dice"] == 0


def test_a_model_is_scored_on_the_validation_cars_of_its_own_source(
    trained: TrainedModel, training_images: ImageStore
) -> None:
    cars = sorted({image_id.partition("_")[0] for image_id in training_images.ids()})
    source = training_images.fingerprint()
    own = changed(trained, source=source, validation_cars=tuple(cars[-1:]))
    other = changed(own, validation_cars=tuple(cars[:-1]))
    index = select_unseen_images(training_images, own)
    assert index["car"].unique().tolist() == cars[-1:]
    score_model(own, index, training_images, Inference(), RECIPE)
    with pytest.raises(UserError, match="trained with another split"):
        score_model(other, index, training_images, Inference(), RECIPE)
    folds = TrainedModel.join([own, other])
    with pytest.raises(UserError, match="No image is left to score"):
        select_unseen_images(training_images, folds)


def test_images_with_problems_stop_the_run(trained: TrainedModel, broken: Path) -> None:
    store = ImageStore(broken / "train", broken / "train_masks")
    store.mask_path(store.ids()[0]).unlink()
    with pytest.raises(UserError, match="Correct or remove these files"):
        select_unseen_images(store, trained)


@pytest.fixture
def folder(broken: Path) -> Path:
    """16 photographs of 4 cars with masks, for a test to change: `train` and `train_masks`."""
    return broken


def _open(folder: Path, group: str | None = "(.+)_..") -> FolderStore:
    return FolderStore(folder / "train", folder / "train_masks", "_mask", group)


def _trained_on(model: TrainedModel, store: FolderStore, image_ids: list[str]) -> TrainedModel:
    """Return the model as if it had been trained on these images of the folder."""
    index = index_images(store)
    train = index["image"].isin(image_ids)
    return changed(
        model,
        source=store.fingerprint(),
        validation_cars=tuple(index[~train]["car"].unique()),
        trained_on=tuple(index[train]["digest"]),
    )


def _copy(folder: Path, image_id: str, name: str, *, comment: bool = False) -> None:
    """Add a copy of a photograph and its mask under another name; with a comment it has another digest."""
    content = (folder / f"train/{image_id}.jpg").read_bytes()
    marker = b"\xff\xfe\x00\x04" + name[:2].encode() if comment else b""
    (folder / f"train/{name}.jpg").write_bytes(content[:2] + marker + content[2:])
    shutil.copy(folder / f"train_masks/{image_id}_mask.gif", folder / f"train_masks/{name}_mask.gif")


def test_after_the_folder_has_grown_only_unseen_images_are_scored(
    model: TrainedModel, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = _open(folder)
    train, validation = store.ids()[:12], store.ids()[12:]
    trained = _trained_on(model, store, train)
    _copy(folder, validation[0], "new_01", comment=True)
    with caplog.at_level("INFO"):
        index = select_unseen_images(_open(folder), trained)
    assert index["image"].tolist() == sorted([*validation, "new_01"])
    assert (
        "12 of 17 images are left out: the model was trained on 12 of them, and 0 show the same cars"
        in caplog.text
    )
    _, means, _ = score_model(trained, index, _open(folder), Inference(), RECIPE)
    assert means["images"] == 5
    with pytest.raises(UserError, match="it was trained on 12 of these 17 images"):
        score_model(trained, index_images(_open(folder)), _open(folder), Inference(), RECIPE)


def test_a_renamed_copy_is_the_same_image(model: TrainedModel, folder: Path, tmp_path: Path) -> None:
    store = _open(folder)
    trained = _trained_on(model, store, store.ids()[:12])
    other = tmp_path / "elsewhere"
    for name in ("train", "train_masks"):
        (other / name).mkdir(parents=True)
    for number, image_id in enumerate(store.ids()):
        _copy(folder, image_id, f"photo{number}")
        shutil.move(folder / f"train/photo{number}.jpg", other / "train")
        shutil.move(folder / f"train_masks/photo{number}_mask.gif", other / "train_masks")
    index = select_unseen_images(_open(other, None), trained)
    assert index["image"].tolist() == [f"photo{number}" for number in range(12, 16)]


def test_images_of_a_car_that_was_trained_on_are_left_out(
    model: TrainedModel, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = _open(folder)
    trained = _trained_on(model, store, store.ids()[:12])
    car = store.ids()[0].partition("_")[0]
    _copy(folder, store.ids()[12], f"{car}_99", comment=True)
    with caplog.at_level("INFO"):
        index = select_unseen_images(_open(folder), trained)
    assert index["image"].tolist() == store.ids()[12:]
    assert "the model was trained on 12 of them, and 1 show the same cars" in caplog.text


def test_what_any_member_was_trained_on_is_left_out(model: TrainedModel, folder: Path) -> None:
    store = _open(folder)
    ids = store.ids()
    first, second = (_trained_on(model, store, part) for part in (ids[:8], ids[4:12]))
    both = TrainedModel.join([first, second])
    assert select_unseen_images(_open(folder), both)["image"].tolist() == ids[12:]
    every = TrainedModel.join([both, _trained_on(model, store, ids[8:])])
    with pytest.raises(UserError, match=r"No image is left to score.*trained on 16 of them"):
        select_unseen_images(_open(folder), every)


def test_a_changed_mask_does_not_make_an_image_unseen(model: TrainedModel, folder: Path) -> None:
    store = _open(folder)
    ids = store.ids()
    trained = _trained_on(model, store, ids[:12])
    shutil.copy(folder / f"train_masks/{ids[1]}_mask.gif", folder / f"train_masks/{ids[0]}_mask.gif")
    assert select_unseen_images(_open(folder), trained)["image"].tolist() == ids[12:]


def test_a_model_of_an_earlier_version_is_scored_on_its_validation_cars_or_with_a_warning(
    trained: TrainedModel, training_images: ImageStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Its source has a fingerprint of names and sizes, which fits no source any more."""
    assert len(select_unseen_images(training_images, trained)) == 16
    assert "does not say which images it was trained on" in caplog.text
    caplog.clear()
    last = training_images.ids()[-1].partition("_")[0]
    index = select_unseen_images(training_images, changed(trained, validation_cars=(last, "gone")))
    assert index["car"].unique().tolist() == [last]
    assert "does not say" not in caplog.text
