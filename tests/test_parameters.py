import ast
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from kedro.config import OmegaConfigLoader
from pydantic import BaseModel, ValidationError

import carvana_kedro
from carvana_kedro.errors import UserError
from carvana_kedro.parameters import (
    Inference,
    Loss,
    ModelTraining,
    Optimizer,
    Parameters,
    Schedule,
    check_configuration,
)
from carvana_kedro.segmentation.training.losses import segmentation_loss
from carvana_kedro.segmentation.training.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    build_optimizer,
    build_schedule,
)
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.settings import CONFIG_LOADER_ARGS

CONF = Path(__file__).parents[1] / "conf"


def _loader(env: str = "base", conf: Path = CONF, **runtime_params: Any) -> OmegaConfigLoader:
    return OmegaConfigLoader(str(conf), env=env, runtime_params=runtime_params, **CONFIG_LOADER_ARGS)


def _check(env: str = "base", conf: Path = CONF, **runtime_params: Any) -> Parameters:
    loader = _loader(env, conf, **runtime_params)
    return check_configuration(loader["parameters"], loader["globals"], runtime_params)


RECIPES = _loader()["parameters"]["recipes"]


@pytest.mark.parametrize("env", ["base", "local", "kaggle", "test"])
def test_every_environment_is_valid(env: str) -> None:
    _check(env)


def test_the_parameters_allow_every_optimizer_and_schedule() -> None:
    for name in OPTIMIZERS:
        Optimizer(name=name, learning_rate=1)
    for name in SCHEDULES:
        Schedule(name=name)


def test_parameters_and_recipe_have_the_same_defaults() -> None:
    content = {
        name: RECIPES["sample"][name] for name in ("architecture", "input_size", "batch_size", "epochs")
    }
    content["optimizer"] = {"name": "sgd", "learning_rate": 0.1}
    validated = dataclasses.asdict(ModelTraining.model_validate(content).to_recipe())
    plain = dataclasses.asdict(Recipe.from_dict(content))
    nested = {
        "loss",
        "optimizer",
        "schedule",
        "augmentation",
    }  # see the test of the functions' defaults below
    assert {name: validated[name] for name in validated.keys() - nested} == {
        name: plain[name] for name in plain.keys() - nested
    }


def test_the_error_names_unknown_and_missing_keys_of_a_recipe() -> None:
    content = RECIPES["sample"]
    with pytest.raises(UserError, match=r"Unknown key in a recipe: epohcs\. Available: architecture, "):
        Recipe.from_dict({**content, "epohcs": 1})
    with pytest.raises(UserError, match="A recipe lacks epochs"):
        Recipe.from_dict({name: value for name, value in content.items() if name != "epochs"})


@pytest.mark.parametrize(
    ("override", "extensions"),
    [
        ({}, []),
        ({"architecture": "my.Net"}, ["my.Net"]),
        ({"architecture": {"type": "my.Net", "depth": 3}}, ["my.Net"]),
        ({"architecture": "smp:Unet/resnet34"}, ["smp:Unet/resnet34"]),
        ({"loss": {"type": "my.Loss", "gamma": 2}}, ["my.Loss"]),
        ({"optimizer": {"name": "my.Optimizer", "learning_rate": 0.1, "rho": 3}}, ["my.Optimizer"]),
    ],
)
def test_extensions_are_allowed_with_their_arguments(override: dict[str, Any], extensions: list[str]) -> None:
    parameters = ModelTraining.model_validate({**RECIPES["sample"], **override})
    recipe = parameters.to_recipe()
    assert recipe.extensions() == extensions
    for name, value in override.items():
        assert getattr(recipe, name) == value
        assert parameters.decisive()[name] == value


def test_a_file_of_pretrained_weights_decides_by_its_content(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one.pth", "same.pth", "other.pth"))
    one.write_bytes(b"weights")
    same.write_bytes(b"weights")
    other.write_bytes(b"other weights")
    decisive = [
        ModelTraining.model_validate({**RECIPES["sample"], "pretrained": str(path)}).decisive()
        for path in (one, same, other)
    ]
    assert decisive[0] == decisive[1] != decisive[2]
    one.unlink()
    with pytest.raises(UserError, match=r"model_training.pretrained: .*one.pth cannot be read"):
        ModelTraining.model_validate({**RECIPES["sample"], "pretrained": str(one)}).decisive()


def test_a_model_to_start_from_decides_by_its_content_and_in_place_of_pretrained(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one.pt", "same.pt", "other.pt"))
    one.write_bytes(b"model")
    same.write_bytes(b"model")
    other.write_bytes(b"other model")

    def decisive(**changes: Any) -> dict[str, Any]:
        return ModelTraining.model_validate({**RECIPES["sample"], **changes}).decisive()

    assert decisive(init_from=str(one)) == decisive(init_from=str(same)) != decisive(init_from=str(other))
    assert decisive(init_from=str(one)) != decisive()
    missing = str(tmp_path / "none.pt")
    assert decisive(init_from=str(one), pretrained=missing) == decisive(init_from=str(one))
    with pytest.raises(UserError, match=r"model_training.init_from: .*none.pt cannot be read"):
        decisive(init_from=missing)


@pytest.mark.parametrize("value", [True, "", "https://example.org/model.pt"])
def test_a_model_to_start_from_is_a_name_or_a_local_path(value: Any) -> None:
    with pytest.raises(UserError, match=r"model_training\.init_from"):
        _check(model_training={"init_from": value})


@pytest.mark.parametrize("value", [1, "", "https://example.org/weights.pth", None])
def test_pretrained_is_a_switch_or_a_local_path(value: Any) -> None:
    with pytest.raises(UserError, match=r"model_training\.pretrained"):
        _check(model_training={"pretrained": value})


def test_a_loss_may_be_a_dotted_path_alone() -> None:
    parameters = ModelTraining.model_validate({**RECIPES["sample"], "loss": "my.loss"})
    assert parameters.to_recipe().loss == {"type": "my.loss"}
    with pytest.raises(UserError, match=r"model_training\.loss\.type = 'focal'"):
        _check(model_training={"loss": "focal"})


def test_every_key_of_a_recipe_is_read_somewhere() -> None:
    package = Path(carvana_kedro.__file__).parent
    modules = [ast.parse(path.read_text()) for path in package.rglob("*.py")]
    read = {
        node.attr
        for module in modules
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        and node.value.id in ("recipe", "parameters", "self")
    }  # fmt: skip
    assert {field.name for field in dataclasses.fields(Recipe)} <= read


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"architecture": {"depth": 3}}, r"model_training\.architecture.*type is missing"),
        ({"architecture": {"type": "my net"}}, r"model_training\.architecture.*type = 'my net': .*pattern"),
        ({"loss": {"type": "focal"}}, r"model_training\.loss\.type = 'focal': .*pattern"),
        ({"loss": {"gamma": 2}}, r"model_training\.loss\.gamma = 2: .*Available: .*dice_weight"),
        ({"optimizer": {"name": "my.Optimizer", "learning_rate": -1}}, r"optimizer\.learning_rate = -1"),
    ],
)
def test_invalid_extensions_are_refused(override: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _check(model_training=override)


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_key_chooses_the_recipe_and_others_override_it_in_any_order(recipe: str) -> None:
    override = {"epochs": 3, "optimizer": {"learning_rate": 0.5}}
    expected = RECIPES[recipe]
    for runtime_params in (
        {"recipe": recipe, "model_training": override},
        {"model_training": override, "recipe": recipe},
    ):
        chosen = _check(**runtime_params).model_training
        assert chosen.architecture == expected["architecture"]
        assert (chosen.epochs, chosen.optimizer.learning_rate) == (3, 0.5)
        assert chosen.optimizer.name == expected["optimizer"]["name"]


def test_the_environment_kaggle_has_the_recipes_at_full_scale() -> None:
    recipe = _check("kaggle").model_training
    assert (recipe.architecture, recipe.batch_size, recipe.epochs) == ("unet_1024", 2, 50)
    assert (recipe.input_size.width, recipe.input_size.height) == (1024, 1024)
    assert (recipe.optimizer.name, recipe.optimizer.learning_rate) == ("rmsprop", 2e-4)
    recipe = _check("kaggle", recipe="unet_original").model_training
    assert (recipe.architecture, recipe.batch_size, recipe.input_size.width) == ("unet_original", 3, 572)
    assert (recipe.optimizer.name, recipe.optimizer.learning_rate, recipe.optimizer.momentum) == (
        "sgd",
        0.01,
        0.99,
    )


@pytest.mark.parametrize(
    ("runtime_params", "message"),
    [
        (
            {"model_training": {"epohcs": 3}},
            r"model_training\.epohcs = 3: unknown parameter\. Did you mean epochs\? Available: .*epochs",
        ),
        (
            {"model_training": {"epochs": 0}},
            r"model_training\.epochs = 0: should be greater than or equal to 1",
        ),
        ({"model_training": {"optimizer": {"lr": 1}}}, r"model_training\.optimizer\.lr = 1: .*learning_rate"),
        (
            {"model_training": {"input_size": {"width": "wide"}}},
            r"model_training\.input_size\.width = 'wide'",
        ),
        ({"inference": {"threshold": -0.5}}, r"inference\.threshold = -0\.5: should be greater than 0"),
        (
            {"inference": {"engine": "onnxruntime", "compile": True}},
            r"inference: the engine onnxruntime computes in float32 and does not compile",
        ),
        (
            {"data_ingestion": {"on_problem": "ignore"}},
            r"data_ingestion\.on_problem = 'ignore': .*'stop' or 'skip'",
        ),
        (
            {"reporting": {"turntables": -1}},
            r"reporting\.turntables = -1: should be greater than or equal to 0",
        ),
        ({"reporting": {"turntables": "all"}}, r"reporting\.turntables = 'all': should be a valid integer"),
        ({"infrence": {"threshold": 0.5}}, r"infrence = .*: .* Did you mean inference\?"),
        ({"recipes": {"sample": {"epochs": "no"}}}, r"epochs = 'no'"),
        (
            {"recipes": {"unet_1024": {"epohcs": 1}}},
            r"recipes\.unet_1024\.epohcs = 1: .* Did you mean epochs\?",
        ),
        ({"model_training": {"epochs": True}}, r"model_training\.epochs = True: should be a valid integer"),
        ({"model_training": {"seed": 2**63}}, r"model_training\.seed = .*: should be less than"),
        (
            {"model_training": {"optimizer": {"learning_rate": float("inf")}}},
            r"learning_rate = inf: .*finite",
        ),
        (
            {"model_training": {"optimizer": {"momentum": 0.9}}},
            r"model_training\.optimizer: adamw takes no momentum",
        ),
        (
            {"model_training": {"loss": {"bce_weight": 0, "dice_weight": 0}}},
            r"bce_weight and dice_weight must not both be 0",
        ),
    ],
)
def test_the_error_names_the_mistake(runtime_params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _check(**runtime_params)


def test_parameters_are_frozen() -> None:
    parameters = _check()
    with pytest.raises(ValueError, match="frozen"):
        parameters.model_training.epochs = 1  # type: ignore[misc]


def test_the_error_names_a_missing_key() -> None:
    loader = _loader()
    raw = loader["parameters"]
    del raw["model_training"]["batch_size"]
    with pytest.raises(UserError, match=r"model_training\.batch_size is missing"):
        check_configuration(raw, loader["globals"], {})


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A copy of the project's configuration with an empty `local`."""
    shutil.copytree(CONF / "base", tmp_path / "base")
    (tmp_path / "local").mkdir()
    return tmp_path


def test_the_environment_local_overrides_the_defaults(conf: Path) -> None:
    (conf / "local" / "globals.yml").write_text("recipe: unet_256\nsample: {width: 960, height: 640}\n")
    (conf / "local" / "parameters.yml").write_text("model_training: {epochs: 7}\n")
    parameters = _check("local", conf)
    assert (parameters.recipe, parameters.model_training.architecture) == ("unet_256", "unet_256")
    assert parameters.model_training.epochs == 7
    assert _loader("local", conf)["globals"]["sample"]["training_cars"] == 12


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "parameters.yml",
            "recipe: unet_256",
            r"recipe = 'unet_256' in a parameters file has no effect",
        ),
        ("parameters.yml", "source: kaggle", r"source = 'kaggle' in a parameters file has no effect"),
        (
            "globals.yml",
            "pictures: {folder: false}",
            "pictures has a new name: inference.masks, inference.cutouts",
        ),
        ("globals.yml", "sourec: kaggle", r"sourec = 'kaggle': .* Did you mean source\?"),
        ("globals.yml", "sample: {widht: 500}", r"sample\.widht = 500: .* Did you mean width\?"),
        ("globals.yml", "sample: {width: 50}", r"sample\.width = 50: should be greater than or equal to 96"),
        (
            "globals.yml",
            "sample: {variety: wall}",
            r"sample\.variety: variety must be none, all, or some of walls\+paint\S*, not wall",
        ),
        ("globals.yml", "sample: {views: 18}", r"sample\.views = 18: should be less than or equal to 16"),
    ],
)
def test_the_error_names_a_mistake_in_a_file(conf: Path, file: str, content: str, message: str) -> None:
    (conf / "local" / file).write_text(content)
    with pytest.raises(UserError, match=message):
        _check("local", conf)


PLACES = ("data_root", "checkpoint", "folder.images", "folder.masks", "folder.test")
PATHS = (*PLACES, "scratch_root", "archives")
URLS = (
    "s3://bucket/data",
    "gs://b/c",
    "https://host/a.zip",
    "file:///tmp",
    "file:/tmp",
    "S3://B",
    "hdfs:///a",
)


def _nested(key: str, value: object) -> dict[str, Any]:
    first, _, second = key.partition(".")
    return {first: {second: value}} if second else {first: value}


@pytest.mark.parametrize(
    ("key", "url"),
    [(key, url) for key in PATHS for url in URLS if key not in PLACES or url[:5] not in ("s3://", "gs://")],
)
def test_a_url_is_no_path(conf: Path, key: str, url: str) -> None:
    message = rf"^Invalid parameters:\n  {key}: '{url}' is a URL, but only local paths[^\n]* are supported\. [^\n]*$"
    with pytest.raises(UserError, match=message):
        _check(**_nested(key, url))
    (conf / "local/globals.yml").write_text(json.dumps(_nested(key, url)))
    with pytest.raises(UserError, match=message):
        _check("local", conf)


@pytest.mark.parametrize("key", PLACES)
def test_outputs_models_and_photographs_may_be_in_an_object_store(key: str) -> None:
    for address in ("s3://bucket", "s3://bucket/a/b", "gs://bucket/a"):
        _check(**_nested(key, address))
    for address in ("s3://", "s3:///a", "gs:// b"):
        with pytest.raises(UserError, match=f"{key}: '{address}' is a URL, but only .* s3://BUCKET/PREFIX"):
            _check(**_nested(key, address))


@pytest.mark.parametrize(
    "path", ["s3", "s3:", "a:b", "C:/data", "~/s3/x", "/data/2017-01-01 12:30", "./s3:/x"]
)
def test_a_local_path_with_a_colon_is_a_path(path: str) -> None:
    for key in PATHS:
        _check(**_nested(key, path))


@pytest.mark.parametrize(
    ("key", "value"), [("data_root", ""), ("folder.images", " "), ("checkpoint", "a\0b")]
)
def test_an_empty_path_is_refused(key: str, value: str) -> None:
    with pytest.raises(UserError, match=f"{key}: .* is not a path"):
        _check(**_nested(key, value))


@pytest.mark.parametrize("key", ["data_root", "source", "recipe", "folder.mask_suffix", "kaggle.competition"])
def test_no_value_does_not_stand_for_a_default(key: str) -> None:
    with pytest.raises(Exception, match="None"):
        _check(**_nested(key, None))


def test_no_value_takes_the_place_of_a_default_that_may_be_empty(conf: Path) -> None:
    (conf / "local/globals.yml").write_text("checkpoint: a.pt\nfolder: {masks: b}\n")
    _check("local", conf, checkpoint=None, folder={"masks": None})


@pytest.mark.parametrize("turntables", [None, 0, 5])
def test_the_number_of_turntables_may_be_none_for_all(turntables: int | None) -> None:
    assert _check(reporting={"turntables": turntables}).reporting.turntables == turntables


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            {"name": "cosine", "milestones": [0.1, 0.9]},
            r"cosine takes no milestones: leave it out, or choose step",
        ),
        ({"name": "polynomial", "factor": 0.5}, r"polynomial takes no factor: .* step or plateau"),
        ({"name": "plateau", "power": 2}, r"plateau takes no power: .* polynomial"),
        ({"name": "constant", "patience": 0}, r"constant takes no patience: .* plateau"),
        ({"name": "plateau", "warmup_fraction": 0.1}, r"plateau takes no warmup_fraction"),
        (
            {"name": "step", "warmup_fraction": 0.3, "milestones": [0.9, 0.3]},
            r"warmup_fraction of 0\.3, the warm-up does not end before the first milestone, 0\.3",
        ),
        ({"name": "step", "warmup_fraction": 0.0, "milestones": []}, r"milestones = \[\]: .*at least 1"),
        ({"name": "step", "warmup_fraction": 0.0, "milestones": [1]}, r"milestones\.0 = 1: .*less than 1"),
    ],
)
def test_a_schedule_refuses_options_of_other_schedules(schedule: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=r"model_training\.schedule.*" + message):
        _check(**{"model_training": {"schedule": {"warmup_fraction": 0.0, **schedule}}})


@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "step", "milestones": [0.3, 0.6], "factor": 0.5, "warmup_fraction": 0.2},
        {"name": "polynomial", "power": 2, "warmup_fraction": 0.2},
        {"name": "plateau", "factor": 0.5, "patience": 0, "warmup_fraction": 0.0},
    ],
)
def test_a_schedule_accepts_its_options(schedule: dict[str, Any]) -> None:
    dumped = _check(model_training={"schedule": schedule}).model_training.schedule.model_dump(mode="json")
    assert dumped.items() >= schedule.items()


@pytest.mark.parametrize(
    ("model", "function"),
    [(Loss, segmentation_loss), (Schedule, build_schedule), (Optimizer, build_optimizer)],
)
def test_parameters_and_functions_have_the_same_defaults(model: type[BaseModel], function: Any) -> None:
    shared = model.model_fields.keys() & function.__kwdefaults__.keys()
    assert shared
    for option in shared:
        assert model.model_fields[option].default == function.__kwdefaults__[option], option


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model_training.parts", "model_training.accumulation_steps"),
        ("model_training.workers", "model_training.num_workers"),
        ("model_training.pictures", "model_training.logged_images"),
        ("inference.workers", "inference.num_workers"),
    ],
)
def test_the_error_about_an_old_name_says_the_new_one(old: str, new: str) -> None:
    pipeline, name = old.split(".")
    with pytest.raises(UserError, match=rf"{old} has a new name: {new}$"):
        _check(**{pipeline: {name: 1}})
    for recipe in RECIPES:
        with pytest.raises(UserError, match="has a new name"):
            _check(recipe=recipe, **{pipeline: {name: 1}})


def test_the_source_decides_about_images_if_the_parameters_are_auto() -> None:
    parameters = _check(inference={"masks": True, "overlays": False}).inference
    for written in (True, False):
        chosen = parameters.with_images(written)
        assert (chosen.masks, chosen.cutouts, chosen.overlays) == (True, written, False)
        # Shards of an earlier run are used only if it wrote the same kinds of images.
        assert chosen.decisive()["cutouts"] is written


@pytest.mark.parametrize("share", ["0/8", "9/8", "a/b", "3", "1/0", "1/2/3", "-1/2", "1.5/2", ""])
def test_a_share_is_one_of_all(share: str) -> None:
    with pytest.raises(ValidationError, match="must be like 3/8"):
        Inference(share=share)


def test_every_shard_belongs_to_one_share() -> None:
    shares = [Inference(share=f"{number}/3") for number in (1, 2, 3)]
    owners = [[share.has_shard(number) for share in shares] for number in range(5)]
    assert [owner.index(True) for owner in owners] == [0, 1, 2, 0, 1]
    assert all(sum(owner) == 1 for owner in owners)
    assert Inference().has_shard(7)


def test_devices_share_and_cluster_do_not_decide_the_masks() -> None:
    assert Inference(devices=2, share="1/2").decisive() == Inference().decisive()
    assert Inference(cluster="local").decisive() == Inference().decisive()


@pytest.mark.parametrize("cluster", ["ray://head:10001", "ray://[::1]:10001", "local"])
def test_a_cluster_is_local_or_an_address(cluster: str) -> None:
    assert Inference(cluster=cluster, devices="auto").cluster == cluster
    for other in ("head:10001", "ray://head", "auto", "ray://head:1/x", ""):
        with pytest.raises(ValidationError, match="cluster"):
            Inference(cluster=other)


@pytest.mark.parametrize("other", [{"devices": 2}, {"share": "1/2"}])
def test_a_cluster_excludes_devices_and_shares(other: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=f"cluster and {next(iter(other))} exclude each other"):
        Inference(cluster="local", **other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 0}, "model_training.devices = 0"),
        ({"devices": "all"}, "model_training.devices = 'all'"),
        ({"nodes": 2}, "2 nodes need model_training.rendezvous=HOST:PORT"),
        ({"nodes": 2, "rendezvous": "here"}, "model_training.rendezvous = 'here'"),
        ({"devices": 5}, "5 processes (devices x nodes) cannot share a batch of 4 images in 1 part(s)"),
        ({"devices": 2, "accumulation_steps": 4}, "2 processes (devices x nodes) cannot share a batch of 4"),
        ({"nodes": 5, "rendezvous": "here:1"}, "5 processes"),
        ({"batch_norm": "none"}, "model_training.batch_norm = 'none'"),
        ({"max_restarts": -1}, "model_training.max_restarts = -1"),
    ],
)
def test_processes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        _check(model_training=changes)
    assert message in str(caught.value)


def test_the_processes_do_not_decide_the_result_but_a_local_batch_norm_does() -> None:
    def decisive(**changes: Any) -> dict[str, Any]:
        return ModelTraining.model_validate({**RECIPES["sample"], **changes}).decisive()

    several = {"devices": 2, "nodes": 2, "rendezvous": "here:1", "max_restarts": 1, "batch_norm": "global"}
    assert decisive(**several) == decisive()
    assert decisive(batch_norm="local") == {**decisive(), "batch_norm": "local"}
