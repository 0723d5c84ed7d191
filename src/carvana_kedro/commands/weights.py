"""Put a trained model into the package, in half precision:

    python -m carvana_kedro.commands.weights data/06_models/RECIPE/model.pt

This writes `weights/cars.pt`, writes the facts about the file into its model card, `weights/cars.md`, and prints them.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click
import torch

from carvana_kedro import __version__, weights
from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.model import Member, TrainedModel
from carvana_kedro.stores.atomic import atomic_path
from carvana_kedro.stores.checkpoints import load_checkpoint, save_checkpoint

LARGEST = 8 << 20  # bytes


def pack(model: Path, packed: Path) -> None:
    """Write a model of one network in half precision. Of the parameters, paths of the machine are left out.

    Args:
        model: Of a finished run.
        packed: The file to write.

    Raises:
        UserError: The model cannot be read, has several networks, or does not fit into half precision or 8 MiB.
    """
    members = TrainedModel.from_dict(load_checkpoint(model), str(model)).members
    if len(members) > 1:
        raise UserError(f"{model} is a mean of {len(members)} networks. Choose one of them.")
    content = {**_without_folders(members[0]).to_dict(), "package": __version__}
    content["weights"] = {
        name: weight.half() if weight.dtype == torch.float32 else weight
        for name, weight in members[0].weights.items()
    }
    TrainedModel.from_dict(content, f"{model} in half precision")  # its weights may be too large
    with atomic_path(packed) as part:
        save_checkpoint(part, content)
        if (size := part.stat().st_size) >= LARGEST:
            raise UserError(
                f"{model} would have {size / 2**20:.1f} MiB in half precision. The limit is 8 MiB."
            )


def facts(packed: Path) -> dict[str, str]:
    """Return what identifies a packed model, for its card."""
    content = load_checkpoint(packed)
    model = TrainedModel.from_dict(content, str(packed))
    (member,) = model.members
    height, width = member.input_size
    return {
        "architecture": f"`{member.architecture}`",
        "input": f"{width} x {height} pixels (width x height)",
        "trained on": f"{len(member.trained_on)} images",
        "run": f"`{member.run_id}`, packed with version {content['package']}",
        "weights": f"`{model.digest()}`",
        "size": f"{packed.stat().st_size:,} bytes",
        "SHA-256": f"`{hashlib.sha256(packed.read_bytes()).hexdigest()}`",
    }


def update_card(card: str, facts: Mapping[str, str]) -> str:
    """Return the text of a model card with these facts in its table, which has a row for each of them.

    >>> update_card("| size | 1 |\\n| run | a |", {"size": "2"})
    '| size | 2 |\\n| run | a |'
    """
    for name, value in facts.items():
        card = re.sub(rf"^\| {name} \|.*", f"| {name} | {value} |", card, flags=re.MULTILINE)
    return card


def _without_folders(member: Member) -> Member:
    """Return a network that names the weights it started from by the name of their file, without its folder."""
    parameters, started_from = dict(member.parameters or {}), dict(member.started_from or {})
    for facts, name in ((parameters, "pretrained"), (parameters, "init_from"), (started_from, "path")):
        if Path(str(facts.get(name, ""))).is_absolute():
            facts[name] = Path(facts[name]).name
    return replace(member, parameters=parameters, started_from=started_from or None)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
def main(model: Path) -> None:
    """Put the trained MODEL, a file model.pt, into the package as weights/cars.pt."""
    packed = Path(weights.__file__).with_name("cars.pt")
    card = packed.with_suffix(".md")
    try:
        pack(model, packed)
        found = facts(packed)
    except UserError as error:
        raise click.ClickException(str(error)) from error
    card.write_text(update_card(card.read_text("utf-8"), found), "utf-8")
    click.echo("\n".join(f"{name:14}{value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
