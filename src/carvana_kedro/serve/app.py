"""The routes of the server."""

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from carvana_kedro import __version__
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.serve.bodies import read_upload
from carvana_kedro.serve.guard import Guard
from carvana_kedro.serve.limits import Limits, RefusedError
from carvana_kedro.serve.openapi import describe
from carvana_kedro.serve.pictures import CutOptions, cut, preview
from carvana_kedro.serve.turns import Turns

_PAGE = Path(__file__).with_name("page")
_FILES = {
    "/": ("page.html", "text/html"),
    "/api": ("api.html", "text/html"),
    "/api.js": ("api.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/pixels.js": ("pixels.js", "text/javascript"),
    "/zip.js": ("zip.js", "text/javascript"),
}


def build_app(
    predictor: Predictor, model: str, turns: Turns, limits: Limits, hosts: Collection[str] = ()
) -> Guard:
    """Build the ASGI application.

    Args:
        predictor: Predicts the masks.
        model: Name of its model.
        turns: The queue.
        limits: What one request may take.
        hosts: Names of this server, besides its addresses and `localhost`.
    """

    async def health(request: Request) -> Response:
        return JSONResponse(
            {
                "status": "stopping" if turns.stopping else "ok",
                "version": __version__,
                "model": model,
                "device": str(predictor.hardware.device),
                "threshold": predictor.threshold,
                "photographs": turns.present,
                "in_progress": turns.working,
                "upload_bytes": limits.upload_bytes,
                "pixels": limits.pixels,
            }
        )

    async def cut_out(request: Request) -> Response:
        options = CutOptions.from_query(_single(request))
        work = partial(cut, await read_upload(request, limits), options, predictor, limits)
        picture = await turns.work(work, request.is_disconnected)
        headers = {"x-car-share": f"{picture.share:.4f}"}
        return Response(picture.content, headers=headers, media_type=f"image/{options.format}")

    async def show(request: Request) -> Response:
        work = partial(preview, await read_upload(request, limits), predictor, limits)
        return JSONResponse(await turns.work(work, request.is_disconnected))

    async def openapi(request: Request) -> Response:
        return JSONResponse(describe(limits))

    placed = [Middleware(_Placed, turns)]
    routes = [
        *(Route(path, _file(*file)) for path, file in _FILES.items()),
        Route("/health", health),
        Route("/cut", cut_out, methods=["POST"], middleware=placed),
        Route("/preview", show, methods=["POST"], middleware=placed),
        Route("/openapi.json", openapi),
    ]
    return Guard(Router(routes, redirect_slashes=False), limits, hosts)


class _Placed:
    """An ASGI application around another: requests hold a place until their answers are sent."""

    def __init__(self, app: ASGIApp, turns: Turns) -> None:
        self._app = app
        self._turns = turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._turns.place():
            await self._app(scope, receive, send)


def _file(name: str, kind: str) -> Response:
    return Response((_PAGE / name).read_bytes(), media_type=kind)


def _single(request: Request) -> Mapping[str, str]:
    names = [name for name, _ in request.query_params.multi_items()]
    if len(names) > len(set(names)):
        raise RefusedError(400, "A parameter is given twice.")
    return request.query_params
