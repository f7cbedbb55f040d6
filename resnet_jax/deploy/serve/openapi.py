"""The OpenAPI 3.1 document of the server, generated from the models in :mod:`.schema`."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from resnet_jax import __version__
from resnet_jax.deploy.serve.options import Limits
from resnet_jax.deploy.serve.schema import Answer, Explanation, Failure, Health, Info, PixelRequest

_MODELS = (Answer, Explanation, Failure, Health, Info, PixelRequest)

#: Status -> its meaning, for requests with a body.
_FAILURES = {
    400: "the request is not valid HTTP",
    401: "the token is missing or wrong",
    408: "the body arrived too slowly",
    413: "too large: the body, an image's pixels, or the number of images",
    415: "unsupported content type: send JPEG or PNG files, forms of these, or JSON",
    422: "a damaged image, an image of the wrong shape, or an unknown field or value",
    500: "the server failed",
    503: "too many images are waiting, or the network is not ready: retry after Retry-After seconds",
    504: "no answer in time",
}


def openapi(limits: Limits) -> dict[str, Any]:
    """Return the document.

    Args:
        limits: the limits to state in it.
    """
    _, schemas = models_json_schema(
        [(model, "serialization") for model in _MODELS], ref_template="#/components/schemas/{model}"
    )
    top = _parameter("top", "number of classes in an answer", {"type": "integer", "minimum": 1})
    wanted = _parameter(
        "class",
        "the class that the picture explains (default: the most likely; for pixels and boxes all)",
        {"type": "string"},
    )
    mask = _parameter("mask", "1: for segmentation, also the class of every pixel", {"type": "integer", "enum": [0, 1]})
    predict = {
        "summary": "Predict the contents of images",
        "description": f"At most {limits.images:,} images and {limits.body:,} bytes. If some of several images cannot "
        "be read, the others are answered; if none can be read, the status is that of their errors.",
        "operationId": "predict",
        "parameters": [top, mask],
        "requestBody": _body(several=True),
        "responses": _responses("Answer", "an answer for each image", _FAILURES),
    }
    explain = {
        "summary": "Predict the contents of one image, and show where they are",
        "operationId": "explain",
        "parameters": [top, wanted],
        "requestBody": _body(several=False),
        "responses": _responses(
            "Explanation", "answer and picture", {**_FAILURES, 501: "this network does not support such pictures"}
        ),
    }
    refused = {401: _FAILURES[401], 500: _FAILURES[500]}
    health = {
        "summary": "Whether the server is ready to answer",
        "operationId": "health",
        "security": [],
        "responses": {"200": _answer("Health", "ready"), "503": _answer("Health", "not yet, or no longer")},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "resnet-jax serve",
            "version": __version__,
            "description": "Image predictions over HTTP. Every error is JSON with status, code and message.",
        },
        "security": [{}, {"token": []}],
        "paths": {
            "/predict": {"post": predict},
            "/explain": {"post": explain},
            "/healthz": {"get": health},
            "/info": {"get": _get("info", "Network, classes, preprocessing, limits", "Info", refused)},
            "/metrics": {"get": _get("metrics", "Counters for Prometheus", None, refused, "text/plain")},
            "/openapi.json": {"get": _get("document", "This document", None, refused)},
            "/": {"get": {**_get("page", "A web page", None, {}, "text/html"), "security": []}},
        },
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _parameter(name: str, meaning: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": meaning, "required": False, "schema": schema}


def _body(*, several: bool) -> dict[str, Any]:
    file: dict[str, Any] = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"file": {"type": "array", "items": file} if several else file}}
    return {
        "required": True,
        "content": {
            "image/jpeg": {"schema": file},
            "image/png": {"schema": file},
            "multipart/form-data": {"schema": form},
            "application/json": {"schema": {"$ref": "#/components/schemas/PixelRequest"}},
        },
    }


def _answer(model: str | None, meaning: str, kind: str = "application/json") -> dict[str, Any]:
    plain = {"type": "object"} if kind == "application/json" else {"type": "string"}
    schema = plain if model is None else {"$ref": f"#/components/schemas/{model}"}
    return {"description": meaning, "content": {kind: {"schema": schema}}}


def _responses(model: str | None, meaning: str, failures: dict[int, str], kind: str = "application/json") -> Any:
    failed = {str(status): _answer("Failure", text) for status, text in failures.items()}
    return {"200": _answer(model, meaning, kind), **failed}


def _get(
    name: str, summary: str, model: str | None, failures: dict[int, str], kind: str = "application/json"
) -> dict[str, Any]:
    return {"summary": summary, "operationId": name, "responses": _responses(model, summary, failures, kind)}
