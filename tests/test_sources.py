"""A new source of images, added by configuration only."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).parents[1]
Kedro = Callable[..., subprocess.CompletedProcess[str]]
FIRST_NODE = re.compile(r"\[ *1/")

ENTRY = """
_sources:
  toys:
    type: carvana_kedro.datasets.ArchivesDataset
    path: ${{_data}}/01_raw/toys
    archives: {archives}
    about:
      limits: [The cars are toys.]
      reproduce: [toys.shelf]
      writes_images: true
      competition: null
"""


def test_a_source_is_one_entry_of_the_catalog(kedro: Kedro, archives: Path, tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(PROJECT / "conf", conf, ignore=shutil.ignore_patterns("local"))
    (conf / "local").mkdir()
    (conf / "base/catalog_toys.yml").write_text(ENTRY.format(archives=archives))
    command = ("run", "--env", "test", "--conf-source", str(conf))
    params = "source=toys,model_training.epochs=1"
    kedro(*command, "--pipelines", "data_ingestion,model_training,inference", params=params)
    card = (tmp_path / "data/08_reporting/toys/sample/model_card.md").read_text()
    assert "- The cars are toys.\n" in card
    assert "`toys.shelf`" in card
    output = tmp_path / "data/07_model_output/toys/sample"
    assert {kind: len(list((output / kind).iterdir())) for kind in ("masks", "cutouts", "overlays")} == {
        "masks": 4,
        "cutouts": 4,
        "overlays": 4,
    }
    # Parameters take precedence over the source.
    shutil.rmtree(output)
    kedro(*command, "--pipelines", "inference", params=f"{params},inference.masks=false")
    assert sorted(path.name for path in output.iterdir() if path.is_dir()) == [
        "cutouts",
        "overlays",
        "shards",
    ]


def test_the_description_of_a_source_is_checked(kedro: Kedro, archives: Path, tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(PROJECT / "conf", conf, ignore=shutil.ignore_patterns("local"))
    (conf / "local").mkdir()
    entry = ENTRY.format(archives=archives).replace("[The cars are toys.]", "toys")
    for text, expected in (
        (entry, "_sources.toys.about in the catalog is not valid:\n  limits"),
        (entry.replace("limits: ", "limit: "), "_sources.toys in the catalog has no about.limits. Add it."),
    ):
        (conf / "base/catalog_toys.yml").write_text(text)
        done = kedro("run", "--env", "test", "--conf-source", str(conf), params="source=toys", check=False)
        assert not FIRST_NODE.search(done.stdout)
        assert expected in done.stderr
