"""The library: `from carvana_kedro import Predictor, cut_out`."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import carvana_kedro
from carvana_kedro import Predictor, cut_out
from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.prediction import predictor as module
from carvana_kedro.stores.checkpoints import load_checkpoint, save_checkpoint
from carvana_kedro.weights import path_of

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.load("cars", device="cpu", precision="float32")


def _loaded(code: str) -> set[str]:
    """Return the names of the modules that a new process has loaded after some code."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_package_alone_loads_neither_pytorch_nor_kedro() -> None:
    assert _loaded("import carvana_kedro").isdisjoint({"torch", "kedro", "numpy", "cv2"})


def test_the_library_does_not_load_kedro() -> None:
    loaded = _loaded("from carvana_kedro import Predictor, cut_out")
    assert "torch" in loaded
    assert loaded.isdisjoint({"kedro", "pandas", "pydantic", "omegaconf"})


def test_the_names_of_the_library_are_listed() -> None:
    assert {"Predictor", "cut_out", "__version__"} <= set(dir(carvana_kedro))
    with pytest.raises(AttributeError, match="no attribute 'Predicter'"):
        _ = carvana_kedro.Predicter
    assert (Path(carvana_kedro.__file__).with_name("py.typed")).is_file()


def test_an_image_may_be_a_path_its_content_an_image_of_pillow_or_an_array(
    predictor: Predictor, tmp_path: Path
) -> None:
    path = tmp_path / "car.png"
    Image.fromarray(PIXELS).save(path)
    expected = predictor.predict_one(PIXELS)
    alpha = expected.alpha(expected.mask(0.5), 0.5)
    for image in (path, str(path), path.read_bytes(), Image.open(path), PIXELS):
        assert (predictor.mask(image) == expected.mask(0.5)).all()
        assert (predictor(image) == expected.mask(0.5)).all()
        assert (predictor.probabilities(image) == expected.probabilities()).all()
        assert (np.asarray(predictor.cut_out(image))[..., 3] == (255 * alpha).round()).all()


def test_the_threshold_can_be_chosen_for_each_image(predictor: Predictor) -> None:
    probabilities = predictor.probabilities(PIXELS)
    low, high = np.quantile(probabilities, [0.2, 0.8]).tolist()
    for threshold in (low, high):
        assert predictor.mask(PIXELS, threshold).mean() == pytest.approx(
            (probabilities > threshold).mean(), abs=0.01
        )
        alpha = np.asarray(predictor.cut_out(PIXELS, threshold=threshold))[..., 3]
        assert ((alpha > 127) == (probabilities > threshold)).mean() > 0.9
    with pytest.raises(UserError, match="above 0 and below 1, not 2"):
        predictor.cut_out(PIXELS, threshold=2)


def test_one_call_is_the_same_as_the_method_and_keeps_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"background": "white", "canvas": (64, 48), "threshold": 0.4}
    expected = Predictor.load("cars", device="cpu").cut_out(PIXELS, **options)  # type: ignore[arg-type]
    assert cut_out(PIXELS, device="cpu", **options) == expected
    monkeypatch.setattr(module, "load_checkpoint", None)  # the file is not read again
    assert cut_out(PIXELS, device="cpu", **options) == expected
    assert expected.mode == "RGB" and expected.size == (64, 48)


def test_an_unknown_model_or_option_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pt"):
        Predictor.load(tmp_path / "none.pt")
    with pytest.raises(TypeError, match="colour"):
        cut_out(PIXELS, device="cpu", colour="red")


def test_a_model_that_has_changed_is_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("cars")  # a path, which is not the packaged model
    with pytest.raises(UserError, match="cars"):
        cut_out(PIXELS, model=path, device="cpu")
    shutil.copy(path_of("cars"), path)
    first = cut_out(PIXELS, model=path, device="cpu", threshold=0.5)
    assert first == cut_out(PIXELS, device="cpu", threshold=0.5)
    content = load_checkpoint(path)
    bias = next(name for name in reversed(content["weights"]) if name.endswith("bias"))
    content["weights"][bias] += 100  # everything is a car
    save_checkpoint(path, content)
    changed = cut_out(PIXELS, model=path, device="cpu", threshold=0.5)
    assert (np.asarray(changed)[..., 3] == 255).all()
