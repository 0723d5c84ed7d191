import builtins
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.prediction import onnx
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.segmentation.prediction.segmenter import Segmenter
from my_extensions import Branching, SingularValues, TinyNet


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    network = build_network("unet_small", width_multiplier=1 / 8)
    return Segmenter(network, Geometry.of(network, (33, 47)))


def test_onnx_runtime_computes_the_same_logits(segmenter: Segmenter, tmp_path: Path) -> None:
    content = onnx.to_bytes(segmenter)
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    for count in (1, 3):
        images = torch.randint(256, (count, 33, 47, 3), dtype=torch.uint8)
        expected = segmenter(images)
        assert expected.std() > 1e-3
        for model in (content, file):
            torch.testing.assert_close(onnx.OnnxSegmenter(model)(images), expected, rtol=1e-4, atol=1e-4)


def test_onnx_runtime_computes_in_the_threads_of_pytorch_which_do_not_change_logits(
    segmenter: Segmenter,
) -> None:
    images = torch.randint(256, (3, 33, 47, 3), dtype=torch.uint8)
    content, before, found = onnx.to_bytes(segmenter), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            engine = onnx.OnnxSegmenter(content)
            assert engine._session.get_session_options().intra_op_num_threads == count
            found.append(engine(images))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(each, found[0]) for each in found)


@pytest.mark.parametrize("flip", [False, True])
def test_both_engines_predict_the_same_probabilities(flip: bool) -> None:
    torch.manual_seed(0)
    # This architecture has a mirrored margin; the predictions of the two networks are averaged.
    networks = [build_network("unet_original", width_multiplier=0.05) for _ in range(2)]
    image = np.random.default_rng(0).integers(256, size=(50, 70, 3), dtype=np.uint8)
    by_torch, by_onnx = (
        Predictor(networks, (188, 204), device="cpu", precision="float32", flip=flip, engine=engine)
        for engine in ("torch", "onnxruntime")
    )
    expected = by_torch.predict_one(image).probabilities()
    assert expected.std() > 5e-5
    assert by_onnx.predict_one(image).probabilities() == pytest.approx(expected, abs=1e-6)


def test_unsupported_options_of_the_engine_are_refused(segmenter: Segmenter) -> None:
    network = build_network("unet_small", width_multiplier=1 / 8)
    for options in ({"compile": True}, {"precision": "bfloat16"}, {"precision": "float16"}):
        with pytest.raises(UserError, match="computes in float32 and does not compile"):
            Predictor([network], (33, 47), device="cpu", engine="onnxruntime", **options)
    with pytest.raises(UserError, match=r"does not support device=mps\. Choose device=cpu or engine=torch"):
        onnx.OnnxSegmenter(b"", "mps")
    assert onnx.choose_device("auto") in ("cpu", "cuda")


def test_a_batch_that_does_not_fit_into_memory_is_split(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_network("unet_small", width_multiplier=1 / 8)
    predictor = Predictor([network], (33, 47), device="cpu", engine="onnxruntime")
    images = torch.randint(256, (4, 33, 47, 3), dtype=torch.uint8)
    expected = predictor.logits(images)
    (runtime,) = predictor._segmenters
    assert isinstance(runtime, onnx.OnnxSegmenter)
    session, batch_sizes = runtime._session, []

    class SmallMemorySession:
        def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            batch_sizes.append(len(feed["images"]))
            if batch_sizes[-1] > 2:
                raise Exception("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory")
            return session.run(names, feed)

    monkeypatch.setattr(runtime, "_session", SmallMemorySession())
    torch.testing.assert_close(predictor.logits(images), expected)
    assert batch_sizes == [4, 2, 2]


def test_the_error_names_the_missing_package(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxscript" else builtins)
    with pytest.raises(UserError, match=r'needs onnxscript: pip install "carvana-kedro\[export\]"'):
        onnx.to_bytes(segmenter)


@pytest.mark.parametrize(
    ("network", "write", "reason"),
    [
        (Branching, onnx.traced, r"torch\.export raised \w+: Could not guard on data-dependent expression"),
        (Branching, onnx.to_bytes, r"torch\.export raised \w+: Could not guard on data-dependent expression"),
        (SingularValues, onnx.to_bytes, r"torch\.onnx\.export raised \w+: No ONNX function found for .*svd"),
    ],
)
def test_a_network_that_cannot_be_exported_is_named_with_the_reason(
    network: type[TinyNet], write: Callable[[Segmenter], object], reason: str
) -> None:
    segmenter = Segmenter(network(), Geometry((32, 48), (32, 48)))
    assert segmenter(torch.zeros(1, 32, 48, 3, dtype=torch.uint8)).shape == (1, 32, 48)
    with pytest.raises(
        UserError,
        match=rf"network my_extensions\.{network.__name__} cannot be exported: {reason}.*engine=torch",
    ):
        write(segmenter)
