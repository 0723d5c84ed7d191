"""The command `carvana-kedro serve`."""

import ipaddress
import math
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, Literal

import click

from carvana_kedro.errors import UserError, shown, shown_lines
from carvana_kedro.serve.limits import Limits
from carvana_kedro.weights import path_of

if TYPE_CHECKING:
    from carvana_kedro.segmentation.prediction.predictor import Predictor

_DEFAULTS = Limits()


class _UpTo(click.FloatRange):
    """A number above 0 and up to a bound. `FloatRange` itself takes `nan`."""

    def __init__(self, most: float) -> None:
        super().__init__(0, most, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


@click.command(context_settings={"show_default": True})
@click.option("--model", default="cars", help="Name of a packaged model, or path of a model.pt.")
@click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0: all of this machine.")
@click.option("--port", default=8000, type=click.IntRange(0, 65535), help="Port to listen on; 0: a free one.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="Name under which the server is reached.")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda", "mps"]))
@click.option(
    "--max-upload", default=_DEFAULTS.upload_bytes / 1e6, type=_UpTo(10_000),
    help="Megabytes of an upload.",
)  # fmt: skip
@click.option(
    "--max-pixels", default=_DEFAULTS.pixels / 1e6, type=_UpTo(100),
    help="Million pixels of a photograph.",
)  # fmt: skip
@click.option(
    "--max-waiting", default=_DEFAULTS.requests, type=click.IntRange(1),
    help="Photographs that are received, waiting, in progress or sent at a time; each may hold an upload in memory.",
)  # fmt: skip
@click.option(
    "--upload-timeout", default=_DEFAULTS.upload_seconds, type=_UpTo(86_400),
    help="Seconds that an upload, or a pause of a client that reads its answer, may take.",
)  # fmt: skip
@click.option(
    "--timeout", default=_DEFAULTS.seconds, type=_UpTo(86_400),
    help="Seconds until the answer to a request is sent.",
)  # fmt: skip
def serve(
    model: str,
    host: str,
    port: int,
    allow_host: tuple[str, ...],
    device: Literal["auto", "cpu", "cuda", "mps"],
    max_upload: float,
    max_pixels: float,
    max_waiting: int,
    upload_timeout: float,
    timeout: float,
) -> None:
    """Serve a page that cuts cars out of photographs, and POST /cut for programs.

    Nothing is written to the disk. Stop the server with Ctrl-C.
    """
    limits = Limits(round(max_upload * 1e6), round(max_pixels * 1e6), max_waiting, upload_timeout, timeout)
    try:
        _serve(model, host, port, allow_host, device, limits)
    except UserError as error:
        raise click.ClickException(shown_lines(str(error))) from error
    except KeyboardInterrupt:
        click.echo("Stopped", err=True)
        sys.stdout.flush()
        os._exit(0)  # Python would wait for a photograph in progress, which the server has given up


def _serve(
    model: str,
    host: str,
    port: int,
    names: tuple[str, ...],
    device: Literal["auto", "cpu", "cuda", "mps"],
    limits: Limits,
) -> None:
    try:
        from carvana_kedro.serve import server
        from carvana_kedro.serve.app import build_app
        from carvana_kedro.serve.turns import Turns
    except ModuleNotFoundError as error:
        raise UserError(
            f'serve needs {error.name}, which is not installed: pip install "carvana-kedro[serve]"'
        ) from error
    path = path_of(model)
    if not path.is_file():
        raise click.UsageError(f"The model {shown(model)} is not a file. The packaged model is called cars.")
    with server.listen(host, port) as listener:
        predictor = _load(model, device)
        turns = Turns(limits.requests)
        app = build_app(predictor, path.stem, turns, limits, [host, *names])
        _announce(server.address_of(listener), model, predictor, listener)
        server.serve(app, turns, limits, listener)


def _load(model: str, device: Literal["auto", "cpu", "cuda", "mps"]) -> "Predictor":
    import numpy as np

    from carvana_kedro.segmentation.prediction.predictor import Predictor

    predictor = Predictor.from_checkpoint(model, device=device)
    predictor.mask(np.zeros((32, 48, 3), np.uint8))  # the first one takes longer
    return predictor


def _announce(address: str, model: str, predictor: "Predictor", listener: socket.socket) -> None:
    if not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
        click.echo(
            "Warning: everyone who reaches this machine over the network can use the server. It has no passwords, and "
            "photographs travel unencrypted. Leave out --host to serve this machine only.",
            err=True,
        )
    click.echo(f"{address} cuts cars out with {model} on {predictor.hardware.device}. Stop it with Ctrl-C.")
