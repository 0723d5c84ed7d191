"""Shares of a prediction: what they write is what one process writes."""

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.errors import UserError
from carvana_kedro.image_index import index_images
from carvana_kedro.parameters import Inference
from carvana_kedro.pipelines.inference.nodes import predict_masks
from carvana_kedro.pipelines.inference_share.nodes import predict_share
from carvana_kedro.segmentation import hardware
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores import locks
from carvana_kedro.stores.digests import Digests
from carvana_kedro.stores.folders import DiskFolder
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.images.folder import FolderStore
from carvana_kedro.stores.predictions import PredictedImages, PredictionShards
from models import RECIPE

Start = Callable[..., subprocess.Popen[str]]

KINDS = {"masks": True, "cutouts": True, "overlays": True, "threshold": 0.603}
"""The threshold is about the median of the untrained network's probabilities: masks depend on every bit of them."""
SOURCE = SourceDescription(name="mine")


def _files(folder: Path) -> Mapping[str, bytes]:
    """The files of a prediction. What describes the shards holds the times of files, and is left out."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".json", ".lock"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _output(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def test_shares_at_the_same_time_and_a_last_run_write_the_files_of_one_process(
    start: Start, tmp_path: Path
) -> None:
    _output(start(tmp_path / "one", **KINDS))
    shares = [start(tmp_path / "shares", share=share, **KINDS) for share in ("1/2", "2/2", "2/2")]
    for share, process in zip((0, 1, 1), shares, strict=True):
        numbers = [int(line.split()[1]) for line in _output(process).splitlines() if line.startswith("shard")]
        assert {number % 2 for number in numbers} <= {share}
    last = _output(start(tmp_path / "shares", **KINDS))
    assert "32 of 32 shards of masks exist" in last
    assert "\nshard " not in last
    expected = _files(tmp_path / "one")
    assert len(expected) == 1 + 32 + 3 * 96
    shards = [content.decode() for name, content in expected.items() if name.endswith(".csv")]
    assert min(len(row.split()) // 2 for text in shards for row in text.splitlines()[1:]) > 20
    assert _files(tmp_path / "shares") == expected


def _predict(
    node: Callable[..., Any], model: TrainedModel, images: ImageStore, folder: Path, **changed: Any
) -> Any:
    parameters = Inference(**{"batch_size": 2, "shard_size": 3, **changed})
    stores = PredictionShards(DiskFolder(folder / "shards")), PredictedImages(DiskFolder(folder))
    return node(model, index_images(images), images, *stores, parameters, RECIPE, SOURCE)


def test_a_share_takes_no_lock_and_removes_nothing(
    model: TrainedModel, training_images: ImageStore, tmp_path: Path
) -> None:
    _predict(predict_masks, model, training_images, tmp_path, masks=True)
    before = _files(tmp_path)
    with locks.locked(tmp_path / "shards"):
        _predict(predict_share, model, training_images, tmp_path, share="2/3", threshold=0.6)
    assert before.items() <= _files(tmp_path).items()


def test_a_share_replaces_no_images_of_another_prediction(
    model: TrainedModel, training_images: ImageStore, tmp_path: Path
) -> None:
    _predict(predict_masks, model, training_images, tmp_path, masks=True)
    before = _files(tmp_path)
    with pytest.raises(UserError, match=r"masks.*belongs to another prediction.*data_root"):
        _predict(predict_share, model, training_images, tmp_path, share="2/3", masks=True, threshold=0.603)
    assert _files(tmp_path) == before


def test_a_share_predicts_only_what_is_missing(
    model: TrainedModel, training_images: ImageStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for expected in ("2 predicted now, 0 before", "0 predicted now, 2 before"):
        _predict(predict_share, model, training_images, tmp_path, share="2/3")
        assert f"Share 2/3 has 2 of 6 shards: {expected}" in caplog.text
    shard, _ = sorted(tmp_path.rglob("*.csv"))
    shard.rename(shard.with_name("00001-0123456789abcdef.csv"))  # the digest of other rows
    _predict(predict_share, model, training_images, tmp_path, share="2/3")
    assert "1 predicted now, 1 before" in caplog.text
    numbers = sorted(int(path.name[:5]) for path in tmp_path.rglob("*.csv"))
    assert numbers == [1, 4]


def test_a_last_run_predicts_the_shares_that_are_missing(
    model: TrainedModel, training_images: ImageStore, tmp_path: Path
) -> None:
    expected = _predict(predict_masks, model, training_images, tmp_path / "one")
    _predict(predict_share, model, training_images, tmp_path / "shares", share="1/2")
    assert _predict(predict_masks, model, training_images, tmp_path / "shares") == expected


def test_shards_of_a_host_with_another_precision_are_not_used(
    model: TrainedModel, training_images: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for has_bfloat16, share in ((True, "1/2"), (False, "2/2")):
        monkeypatch.setattr(hardware, "_has_bfloat16", lambda _, has=has_bfloat16: has)
        _predict(predict_share, model, training_images, tmp_path, share=share, device="cpu")
    last = _predict(predict_masks, model, training_images, tmp_path, device="cpu")
    assert last["hardware"] == ["cpu", "float32"]
    assert len({Path(name).parent for name in last["shards"]}) == 1
    assert len(list((tmp_path / "shards").glob("*/*.csv"))) == 3 + 6


@pytest.mark.parametrize("opened", [ImageStore, FolderStore])
def test_a_share_refuses_an_index_of_other_files(
    opened: Callable[[Path], Any], model: TrainedModel, broken: Path, tmp_path: Path
) -> None:
    index = index_images(opened(broken / "train"))
    first, second, *_ = sorted((broken / "train").glob("*.jpg"))
    content = first.read_bytes()

    def predict() -> None:
        stores = (
            PredictionShards(DiskFolder(tmp_path / "out/shards")),
            PredictedImages(DiskFolder(tmp_path / "out")),
        )
        parameters = Inference(share="1/2", shard_size=1)
        predict_share(model, index, opened(broken / "train"), *stores, parameters, RECIPE, SOURCE)

    def refused() -> None:
        with pytest.raises(UserError, match=r"kedro run --to-nodes inference\.select_test_images"):
            predict()
        assert not _files(tmp_path / "out")

    first.write_bytes(second.read_bytes())
    refused()
    first.unlink()
    refused()
    first.write_bytes(content)
    kept = second.rename(tmp_path / "kept.jpg")  # of the other share
    refused()
    kept.rename(second)
    added = first.with_name("000000000000_01.jpg")
    added.write_bytes(content)
    refused()
    added.unlink()
    if opened is FolderStore:
        added = shutil.copy(second, second.with_suffix(".jpeg"))
        refused()
        added.unlink()
    second.write_bytes(content)  # the other share refuses it
    predict()
    assert len(_files(tmp_path / "out")) == len(index) // 2


def test_a_share_reads_its_own_images_only(model: TrainedModel, broken: Path, tmp_path: Path) -> None:
    index = index_images(ImageStore(broken / "train"))
    read: list[str] = []

    class Watched(Digests):
        def of(self, paths: Sequence[Path]) -> list[str]:
            read.extend(path.stem for path in paths)
            return super().of(paths)

    images = ImageStore(broken / "train", digests=Watched())
    stores = (
        PredictionShards(DiskFolder(tmp_path / "out/shards")),
        PredictedImages(DiskFolder(tmp_path / "out")),
    )
    predict_share(model, index, images, *stores, Inference(share="2/4", shard_size=1), RECIPE, SOURCE)
    assert {*read} == {*images.ids()[1::4]}


def test_more_shares_than_shards_leave_some_without_work(
    model: TrainedModel, training_images: ImageStore, tmp_path: Path
) -> None:
    _predict(predict_share, model, training_images, tmp_path, share="8/8")
    assert not _files(tmp_path)


def test_shards_of_files_that_changed_are_removed_and_those_of_other_shares_stay(
    model: TrainedModel, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ImageStore(broken / "train")
    folder = tmp_path / "predicted"
    _predict(predict_share, model, images, folder, share="1/2", masks=True)
    before, predict = _names(folder), Predictor.predict
    first, *_, second = (images.image_path(image_id) for image_id in images.ids()[3:6])  # of the second share

    def predict_and_change(*arguments: Any, **options: Any) -> Any:
        yield from predict(*arguments, **options)
        first.write_bytes(second.read_bytes())

    monkeypatch.setattr(Predictor, "predict", predict_and_change)
    with pytest.raises(UserError, match="changed while they were predicted"):
        _predict(predict_share, model, images, folder, share="2/2", masks=True)
    assert len([name for name in before if name.endswith((".csv", ".json"))]) == 6
    assert _names(folder) == before
