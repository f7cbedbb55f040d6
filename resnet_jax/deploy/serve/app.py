"""The routes of the server and their answers."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from resnet_jax import __version__
from resnet_jax.deploy.packages import package
from resnet_jax.deploy.serve.engine import Engine, row_of
from resnet_jax.deploy.serve.heatmap import Heatmap, at_sides, seen
from resnet_jax.deploy.serve.metrics import Metrics
from resnet_jax.deploy.serve.openapi import openapi
from resnet_jax.deploy.serve.options import MIB, Batching, Limits
from resnet_jax.deploy.serve.page import render_page
from resnet_jax.deploy.serve.pipeline import Computed, Pipeline
from resnet_jax.deploy.serve.problems import Problem, busy, not_readable
from resnet_jax.deploy.serve.requests import Memory, Named, images_in, read_body
from resnet_jax.deploy.serve.schema import Answer, Error, Explanation, Health, ImageAnswer, Info, answers_of
from resnet_jax.report.heat import encode_png

TOP = 5
EXPLANATIONS = 8
"""Explanations that may wait at a time."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
"""All methods: those that a path does not accept get the same JSON errors as everything else."""

OnImages = Callable[[Any, np.ndarray], None]


class Service:
    """Answers requests.

    Args:
        engine: the network.
        batching: how images are batched.
        limits: which requests are rejected.
        metrics: the counters.
        heatmap: draws where in an image a class is seen; None if the network supports no such picture.
        watch: called with the outputs and images of every batch; None for no drift detection.
    """

    def __init__(
        self,
        engine: Engine,
        batching: Batching,
        limits: Limits,
        metrics: Metrics,
        *,
        heatmap: Heatmap | None = None,
        watch: OnImages | None = None,
    ):
        self.engine, self.limits, self.metrics, self.heatmap, self._watch = engine, limits, metrics, heatmap, watch
        self.pipeline = Pipeline(
            engine,
            most=limits.queue,
            wait=batching.wait_ms / 1000,
            decoders=batching.decoders,
            on_batch=metrics.batch,
            on_outputs=watch,
        )
        self.memory = Memory(limits.memory_mib * MIB)
        self.status: str = "warming"
        self._explaining = 0
        self._threads = ThreadPoolExecutor(1, "parse")
        self._page = render_page(engine, limits, explains=heatmap is not None).encode()
        self._openapi = json.dumps(openapi(limits)).encode()
        self._seconds: dict[int, float] = {}

    def warm(self) -> None:
        """Compile everything; blocks."""
        self._seconds = self.pipeline.warm()
        if self.heatmap is not None:
            pixels = np.zeros(self.engine.shape, self.engine.dtype)
            row = row_of(self.engine.compute(pixels[None]), 0)
            for wanted in (None, self.engine.classes[0]):
                self.heatmap(pixels, row, wanted, self.engine.classes[:1])
        self.status = "ready"
        self.metrics.ready.set(1)

    def stop(self, seconds: float) -> None:
        """Finish what was submitted, then stop; blocks."""
        self.status = "stopping"
        self.pipeline.close(seconds)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def application(self) -> Any:
        """Return the ASGI application. It raises :class:`Problem`, which :class:`.guard.Guard` turns into an answer."""
        package("starlette", "resnet-jax serve")
        from starlette.routing import Route, Router

        async def missing(scope: Any, _receive: Any, _send: Any) -> None:
            raise Problem(
                404, "not_found", f"nothing is at {scope['path'][:80]!r}; GET /openapi.json lists what there is"
            )

        routes: dict[str, tuple[str, Callable[..., Any]]] = {
            "/": ("GET", self.page),
            "/predict": ("POST", self.predict),
            "/explain": ("POST", self.explain),
            "/healthz": ("GET", self.health),
            "/info": ("GET", self.info),
            "/metrics": ("GET", self.metric),
            "/openapi.json": ("GET", self.document),
        }
        return Router(
            [Route(path, _only(method, call), methods=METHODS) for path, (method, call) in routes.items()],
            redirect_slashes=False,
            default=missing,
        )

    async def predict(self, request: Any) -> Any:
        """``POST /predict``: a prediction for each image."""
        asked, masked = _top(request.query_params), _mask(request.query_params)
        if masked and self.engine.task != "segmentation":
            raise not_readable(f"mask is for segmentation, and the task of this network is {self.engine.task}")
        loop = asyncio.get_running_loop()
        with self.memory.hold() as add:
            self.pipeline.coming += 1
            try:
                named, top = await self._images(request, add)
                if self.pipeline.inside + len(named) > self.limits.queue:
                    raise busy(f"{self.pipeline.inside:,} images are already waiting: try again")
                futures = [self.pipeline.submit(read, loop) for _, read in named]
            finally:
                self.pipeline.coming -= 1
            request.scope["noted"] = {"images": len(named)}
            found = await self._within(futures, request.scope["noted"])
            top = min(asked or top or TOP, len(self.engine.classes))
            answers = [self._answer(name, each, top, masked) for (name, _), each in zip(named, found, strict=True)]
        return self._json(answers)

    async def explain(self, request: Any) -> Any:
        """``POST /explain``: the prediction for one image, and a picture of where in the image it comes from."""
        draw = self.heatmap
        if draw is None:
            raise Problem(501, "no_picture", f"there is no picture for this network: {self._no_picture()}")
        asked, wanted = _top(request.query_params), request.query_params.get("class")
        classes = self.engine.classes
        if wanted is not None and wanted not in classes:
            raise not_readable(f"class {wanted[:80]!r} is not one of the network's {len(classes):,} classes")
        if self._explaining >= EXPLANATIONS:
            raise busy(f"{self._explaining} pictures are already waiting: try again")
        loop = asyncio.get_running_loop()
        self._explaining += 1
        try:
            with self.memory.hold() as add:
                named, top = await self._images(request, add)
                if len(named) != 1:
                    raise not_readable(f"{len(named)} images; a picture explains one at a time")
                (found,) = await self._within([self.pipeline.submit(named[0][1], loop)], {})
                if isinstance(found, Problem):
                    raise found
                answer = self._answer(named[0][0], found, min(asked or top or TOP, len(classes)))
                names = list(dict.fromkeys(each.name for each in answer.classes))
                row, pixels = found.row, found.ready.pixels
                (drawn,) = await self._within([self.pipeline.call(lambda: draw(pixels, row, wanted, names), loop)], {})
                if isinstance(drawn, Problem):
                    raise drawn
        finally:
            self._explaining -= 1
        explanation = Explanation(
            image=answer,
            explained=drawn.explained,
            method=draw.method,
            caption=drawn.caption,
            colours=dict(drawn.colours) or None,
            picture=_url(drawn.png),
            seen=_url(seen(pixels)),
        )
        return _response(explanation.model_dump_json(exclude_none=True))

    async def page(self, _request: Any) -> Any:
        """``GET /``: a page on which you can drop an image."""
        from resnet_jax.deploy.serve.page import POLICY

        return _response(self._page, "text/html; charset=utf-8", headers={"content-security-policy": POLICY})

    async def health(self, _request: Any) -> Any:
        """``GET /healthz``: 200 if the server is ready to answer, otherwise 503."""
        ready = self.status == "ready"
        return _response(Health.model_validate({"status": self.status}).model_dump_json(), status=200 if ready else 503)

    async def info(self, _request: Any) -> Any:
        """``GET /info``: network, classes, preprocessing, digest, limits."""
        limits = self.limits
        about = Info(
            **self.engine.info(),
            batch_sizes=list(self.engine.sizes),
            limits={
                "body_bytes": limits.body,
                "pixels": limits.pixels,
                "images": limits.images,
                "queue": limits.queue,
                "seconds": limits.seconds,
            },
            explains=self.heatmap is not None,
            drift=self._watch is not None,
            version=__version__,
        )
        return _response(about.model_dump_json())

    async def metric(self, _request: Any) -> Any:
        """``GET /metrics``: counters for Prometheus."""
        return _response(*self.metrics.text())

    async def document(self, _request: Any) -> Any:
        """``GET /openapi.json``: the OpenAPI document."""
        return _response(self._openapi)

    async def _images(self, request: Any, add: Callable[[int], None]) -> tuple[Named, int | None]:
        if self.status != "ready":
            raise busy("the network is being compiled: /healthz says when it is ready")
        body = await read_body(request.headers, request.receive, self.limits, add)

        async def run(call: Callable[..., Any], *arguments: Any) -> Any:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

        return await images_in(request.headers, body, self.engine, self.limits, run)

    async def _within(self, futures: list[asyncio.Future[Any]], noted: dict[str, Any]) -> list[Any]:
        """Wait for all results within the time limit; return results and problems."""
        try:
            async with asyncio.timeout(self.limits.seconds):
                found = await asyncio.gather(*futures, return_exceptions=True)
        except TimeoutError:
            raise Problem(
                504, "timeout", f"no answer within {self.limits.seconds:g} seconds: the server is too busy", 1
            ) from None
        noted["batch"] = max((each.batch for each in found if isinstance(each, Computed)), default=0)
        for each in found:
            if isinstance(each, BaseException) and not isinstance(each, Problem):
                raise each
        return found

    def _no_picture(self) -> str:
        if self.engine.task in ("classification", "detection"):
            return "serve the run directory for one, without --no-heatmap"
        return f"its task is {self.engine.task}; POST /predict has its answers"

    def _answer(self, name: str, found: Computed | Problem, top: int, masked: bool = False) -> ImageAnswer:
        if isinstance(found, Problem):
            self.metrics.images.labels("failed").inc()
            return ImageAnswer(name=name, classes=[], mask=None, error=Error(**found.as_json()))
        self.metrics.images.labels("answered").inc()
        prediction = self.engine.prediction(found.row, found.ready.sides, top)
        mask = None
        if masked:
            mask = _url(encode_png(at_sides(prediction.fields["segmentation"], self.engine.shape[:2])[..., None]))
        return ImageAnswer(name=name, classes=answers_of(prediction), mask=mask, error=None)

    def _json(self, answers: list[ImageAnswer]) -> Any:
        """Return the answer. If no image could be answered, its status is that of their errors."""
        errors = [answer.error for answer in answers if answer.error is not None]
        if len(errors) < len(answers):
            answer = Answer(images=answers, network=self.engine.name, digest=self.engine.digest)
            return _response(answer.model_dump_json(exclude_none=True))
        same = len({error.status for error in errors}) == 1
        status = errors[0].status if same else 422
        message = errors[0].message if len(errors) == 1 else f"none of {len(errors)} images was answered"
        problem = Problem(status, errors[0].code if same else "unreadable", message)
        listed = [answer.model_dump(exclude_none=True) for answer in answers]
        problem.more = {"images": listed}  # pyright: ignore[reportAttributeAccessIssue]
        raise problem


def _only(method: str, call: Callable[..., Any]) -> Callable[..., Any]:
    async def answered(request: Any) -> Any:
        if request.method != method and not (method == "GET" and request.method == "HEAD"):
            raise Problem(405, "wrong_method", f"{request.url.path} takes {method}, not {request.method[:20]}")
        return await call(request)

    return answered


def _top(query: Any) -> int | None:
    text = query.get("top")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and int(text) > 0):
        raise not_readable(f"top must be a whole number, 1 or more, got {text[:40]!r}")
    return int(text)


def _mask(query: Any) -> bool:
    text = query.get("mask", "0")
    if text not in ("0", "1"):
        raise not_readable(f"mask must be 0 or 1, got {text[:40]!r}")
    return text == "1"


def _response(body: Any, kind: str = "application/json", status: int = 200, headers: Any = None) -> Any:
    from starlette.responses import Response

    return Response(body, status, headers, kind)


def _url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()
