"""The description of the HTTP interface, in OpenAPI 3.1."""

from typing import Any, get_args

from carvana_kedro import __version__
from carvana_kedro.serve.limits import Limits
from carvana_kedro.serve.pictures import PREVIEW_SIDE, Format, Output

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "What is wrong, and what to do."}},
}
_ERRORS = {
    "400": "A parameter or the form is wrong.",
    "403": "A page of another site made the request.",
    "408": "The upload took too long.",
    "413": "The upload or the photograph is too large.",
    "421": "The name of the server is unknown to it.",
    "422": "The file is not an image that can be used.",
    "500": "The server failed.",
    "503": "Too many photographs are waiting, or the server is stopping. Retry-After says when to try again.",
}


def describe(limits: Limits) -> dict[str, Any]:
    """Return the OpenAPI description of a server with these limits."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    form = {
        "schema": {
            "type": "object",
            "required": ["photograph"],
            "properties": {"photograph": {"type": "string", "format": "binary"}},
        }
    }
    body = {
        "required": True,
        "description": (
            f"One photograph of at most {limits.upload_bytes / 1e6:g} MB and {limits.pixels / 1e6:g} million pixels: "
            "the body itself, or the only file of a form."
        ),
        "content": {"image/*": binary, "application/octet-stream": binary, "multipart/form-data": form},
    }
    cut = {
        "summary": "Cut the car out of a photograph",
        "parameters": [
            _parameter("output", {"enum": [*get_args(Output)], "default": "cutout"}, "What to return."),
            _parameter("format", {"enum": [*get_args(Format)], "default": "png"}, "Format of the file."),
            _parameter(
                "threshold",
                {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
                "On the probability; by default the model's own.",
            ),
            _parameter(
                "background",
                {"default": "transparent", "examples": ["blur", "white", "ffffff"]},
                "Nothing, the blurred photograph, or a color.",
            ),
            _parameter("crop", {"type": "boolean", "default": False}, "Show only the car and a margin."),
            _parameter(
                "canvas",
                {"pattern": "^[0-9]+x[0-9]+$", "examples": ["800x600"]},
                "Width and height of the cut-out, with the car in its center; by default as the photograph.",
            ),
        ],
        "requestBody": body,
        "responses": {
            "200": {
                "description": "The file.",
                "headers": {
                    "x-car-share": {
                        "description": "Share of the pixels that belong to the car; 0: no car was found.",
                        "schema": {"type": "number"},
                    }
                },
                "content": {f"image/{name}": binary for name in get_args(Format)},
            },
            **_errors(),
        },
    }
    preview = {
        "summary": "Return what the page needs to show cut-outs at any threshold",
        "requestBody": body,
        "responses": {
            "200": _json(
                f"The photograph and its probabilities (gray, 0 to 255) as data URLs, at most {PREVIEW_SIDE} pixels "
                "per side.",
                width="integer", height="integer", photograph="string", probabilities="string",
            ),
            **_errors(),
        },
    }  # fmt: skip
    health = {
        "summary": "Tell whether the server runs, its model and its limits",
        "responses": {
            "200": _json(
                "The state of the server.",
                status="string", version="string", model="string", device="string", threshold="number",
                photographs="integer", in_progress="boolean", upload_bytes="integer", pixels="integer",
            )
        },
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "carvana-kedro serve", "version": __version__},
        "paths": {"/cut": {"post": cut}, "/preview": {"post": preview}, "/health": {"get": health}},
    }


def _parameter(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": {"type": "string", **schema}}


def _errors() -> dict[str, Any]:
    content = {"application/json": {"schema": _ERROR}}
    return {status: {"description": text, "content": content} for status, text in _ERRORS.items()}


def _json(text: str, **types: str) -> dict[str, Any]:
    properties = {name: {"type": kind} for name, kind in types.items()}
    schema = {"type": "object", "required": [*types], "properties": properties}
    return {"description": text, "content": {"application/json": {"schema": schema}}}
