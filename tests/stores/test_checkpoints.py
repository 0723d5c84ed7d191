from pathlib import Path

import numpy as np
import pytest
import torch

from carvana_kedro.errors import UserError
from carvana_kedro.stores.checkpoints import CheckpointStore, load_checkpoint


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code of a checkpoint was run')",)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save("run", "last", {"weights": {"a": torch.arange(3)}, "epoch": 2})
    loaded = store.load("run", "last")
    assert loaded["epoch"] == 2
    assert torch.equal(loaded["weights"]["a"], torch.arange(3))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["last.pt"]


def test_bad_files_are_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    with pytest.raises(UserError, match="There is no checkpoint"):
        store.load("run", "last")
    store.save("run", "last", {"weights": torch.arange(30_000)})
    path = tmp_path / "run" / "last.pt"
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    flipped = bytearray(whole)
    flipped[100] ^= 0xFF
    damaged = [whole[:size] for size in (0, 1, 2000, 20_000, len(whole) - 1)]
    for content in (*damaged, b"text", random.bytes(5000), bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"last\.pt is not a checkpoint of ours"):
            store.load("run", "last")
    torch.save(torch.zeros(3), path)
    with pytest.raises(UserError, match="it holds a Tensor"):
        store.load("run", "last")


def test_no_code_is_run(tmp_path: Path) -> None:
    torch.save({"weights": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"evil\.pt is not a checkpoint of ours"):
        load_checkpoint(tmp_path / "evil.pt")
