"""Every answer of the server, in this process; each against the schema that the server states for it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from resnet_jax.deploy.serve.guard import AccessLog
from resnet_jax.deploy.serve.heatmap import Drawn
from resnet_jax.deploy.serve.openapi import openapi
from resnet_jax.deploy.serve.options import Batching, Limits
from resnet_jax.errors import UsageError
from tests.deploy.serve.hostile import REFUSED
from tests.deploy.serve.tools import COLOURS, ColourEngine, here, image, run

DOCUMENT = openapi(Limits())


def checked(response: Any, path: str | None = None, method: str = "post") -> Any:
    """Return the JSON of an answer that is as the server's document says."""
    path = path or response.request.url.path
    stated = DOCUMENT["paths"][path][method]["responses"][str(response.status_code)]
    schema = stated["content"]["application/json"]["schema"]
    found = response.json()
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(found)
    return found


def test_names_what_is_in_files_forms_and_arrays():
    async def answers():
        async with here() as server:
            raw = checked(await server.post("/predict", content=image("red"), headers={"content-type": "image/png"}))
            assert [c["name"] for c in raw["images"][0]["classes"]] == ["red", "green", "blue"]
            assert raw["images"][0]["classes"][0]["probability"] == 1.0
            assert "error" not in raw["images"][0]
            bare = await server.post("/predict?top=1", content=image("blue", ".jpg", (30, 50)))
            assert [c["name"] for c in checked(bare)["images"][0]["classes"]] == ["blue"]
            files = [("a", ("g.png", image("green"))), ("a", ("b.jpg", image("blue", ".jpg")))]
            form = checked(await server.post("/predict?top=1", files=files))
            assert [(i["name"], i["classes"][0]["name"]) for i in form["images"]] == [
                ("g.png", "green"),
                ("b.jpg", "blue"),
            ]
            pixels = np.zeros((8, 8, 3), int)
            pixels[..., 1] = 255
            listed = [pixels.tolist(), base64.b64encode(image("red")).decode()]
            arrays = checked(await server.post("/predict", json={"images": listed, "top": 1}))
            assert [i["classes"][0]["name"] for i in arrays["images"]] == ["green", "red"]
            large = np.zeros((80, 120, 3), int)  # parsed in a thread
            found = checked(await server.post("/predict", json={"images": [large.tolist()]}))
            assert len(found["images"]) == 1
            assert server.service.memory.held == server.service.pipeline.inside == server.service.pipeline.coming == 0

    run(answers())


def test_an_image_that_cannot_be_read_leaves_the_others():
    async def answers():
        async with here() as server:
            files = [("a", ("x.jpg", b"hello")), ("a", ("r.png", image("red"))), ("a", ("t.png", image("red")[:60]))]
            response = await server.post("/predict", files=files)
            text, red, cut = checked(response)["images"]
            assert response.status_code == 200
            assert (text["error"]["status"], text["classes"]) == (415, [])
            assert red["classes"][0]["name"] == "red"
            assert cut["error"]["status"] == 422
            none = await server.post("/predict", files=[files[0], files[2]])
            assert none.status_code == 422
            assert len(checked(none)["images"]) == 2
            alike = await server.post("/predict", files=[files[0], files[0]])
            assert alike.status_code == 415

    run(answers())


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
    content, headers, status, words = REFUSED[case]

    async def answers():
        async with here() as server:
            response = await server.post("/predict", content=content, headers=headers)
            found = checked(response)
            assert (response.status_code, found["error"]["status"]) == (status, status), found
            assert words in found["error"]["message"]
            assert "/work" not in response.text
            good = await server.post("/predict", content=image("green"))  # and goes on serving
            assert good.json()["images"][0]["classes"][0]["name"] == "green"
            assert server.service.memory.held == server.service.pipeline.inside == 0

    run(answers())


def test_a_form_with_a_field_or_too_many_files():
    async def answers():
        async with here(limits=Limits(images=2)) as server:
            field = await server.post("/predict", data={"top": "5"}, files={"a": ("a.png", image("red"))})
            assert field.status_code == 422
            assert "'top'" in checked(field)["error"]["message"]
            many = await server.post("/predict", files=[("a", (f"{n}.png", image("red"))) for n in range(3)])
            assert many.status_code == 413
            checked(many)

    run(answers())


def test_a_body_that_is_too_large_is_refused_by_its_header_or_as_it_comes():
    limits = Limits(body_mib=0.01, memory_mib=1)

    async def endless():
        while True:
            yield bytes(1000)

    async def answers():
        async with here(limits=limits) as server:
            said = await server.post("/predict", content=bytes(20_000))
            assert (said.status_code, said.headers["connection"]) == (413, "close")
            assert "20,000" in checked(said)["error"]["message"]
            async with asyncio.timeout(30):
                streamed = await server.post("/predict", content=endless())  # linger ends by itself
            assert streamed.status_code == 413
            assert server.service.memory.held == 0

    run(answers())


def test_full_slow_and_not_ready():
    async def answers():
        engine = ColourEngine()
        async with here(engine, limits=Limits(images=4, queue=4, seconds=0.05)) as server:
            engine.seconds = 0.1
            late = await server.post("/predict", content=image("red"))
            assert late.status_code == 504
            checked(late)
            engine.seconds = 0.0
        async with here(engine, limits=Limits(images=4, queue=4)) as server:
            engine.seconds = 0.1
            sent = [server.post("/predict", content=image("red")) for _ in range(8)]
            found = await asyncio.gather(*sent)
            statuses = sorted(response.status_code for response in found)
            assert statuses.count(200) >= 4
            assert set(statuses) == {200, 503}
            full = next(response for response in found if response.status_code == 503)
            assert full.headers["retry-after"] == "1"
            checked(full)
        async with here(warm=False) as server:
            assert (await server.get("/healthz")).json() == {"status": "warming"}
            early = await server.post("/predict", content=image("red"))
            assert (early.status_code, checked(early)["error"]["code"]) == (503, "busy")
            server.service.warm()
            ready = await server.get("/healthz")
            assert (ready.status_code, checked(ready, method="get")) == (200, {"status": "ready"})

    run(answers())


def test_a_body_that_does_not_come_is_answered_408():
    async def slow():
        yield b"\x89PNG"
        await asyncio.sleep(5)
        yield b""

    async def answers():
        async with here(limits=Limits(upload_seconds=0.05)) as server:
            response = await server.post("/predict", content=slow())
            assert response.status_code == 408
            assert "4 bytes" in checked(response)["error"]["message"]

    run(answers())


def test_an_engine_that_fails_is_a_500_and_the_next_is_answered():
    class Failing(ColourEngine):
        fails = False

        def compute(self, images):
            if self.fails:
                raise MemoryError("secret words")
            return super().compute(images)

    async def answers():
        engine = Failing()
        async with here(engine) as server:
            engine.fails = True
            response = await server.post("/predict", content=image("red"))
            assert response.status_code == 500
            assert "secret" not in response.text
            checked(response)
            engine.fails = False
            assert (await server.post("/predict", content=image("red"))).status_code == 200

    run(answers())


def test_images_that_wait_go_together():
    async def answers():
        engine = ColourEngine(seconds=0.02)
        async with here(engine) as server:
            engine.batches.clear()
            colours = ["red", "green", "blue"] * 8
            found = await asyncio.gather(*(server.post("/predict?top=1", content=image(c)) for c in colours))
            assert [f.json()["images"][0]["classes"][0]["name"] for f in found] == colours  # each its own answer
            assert sum(engine.batches) == 24
            assert max(engine.batches) == 4
            assert len(engine.batches) <= 12

    run(answers())


def test_the_size_of_batch_is_the_fastest_by_what_was_measured():
    async def answers():
        async with here() as server:
            pipeline = server.service.pipeline
            pipeline._seconds = {1: 1.0, 4: 2.0}
            assert [pipeline.best_size(count) for count in (1, 2, 3, 4, 9)] == [1, 4, 4, 4, 4]
            pipeline._seconds = {1: 1.0, 4: 3.9}
            assert [pipeline.best_size(count) for count in (1, 2, 3, 4)] == [1, 1, 1, 4]

    run(answers())


def test_token_and_host():
    token = b"0123456789abcdef"

    async def answers():
        async with here(token=token) as server:
            for headers in ({}, {"authorization": "Bearer 0123456789abcdeF"}, {"authorization": token.decode()}):
                refused = await server.post("/predict", content=image("red"), headers=headers)
                assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
                checked(refused)
            for path in ("/info", "/metrics", "/openapi.json"):
                assert (await server.get(path)).status_code == 401
            assert [(await server.get(path)).status_code for path in ("/", "/healthz")] == [200, 200]
            right = {"authorization": "Bearer 0123456789abcdef"}
            assert (await server.post("/predict", content=image("red"), headers=right)).status_code == 200
            strange = await server.get("/info", headers={**right, "host": "evil.example"})
            assert strange.status_code == 421
        async with here(host="0.0.0.0") as server:
            assert (await server.get("/info", headers={"host": "gpu.example:8000"})).status_code == 200

    run(answers())


def test_paths_methods_and_headers():
    async def answers():
        async with here() as server:
            for path in ("/nothing", "/predict/", "/%2e%2e/etc/passwd"):
                response = await server.get(path)
                assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found"), path
            for method, path in (("GET", "/predict"), ("DELETE", "/info"), ("TRACE", "/"), ("POST", "/healthz")):
                response = await server.client.request(method, path)
                assert (response.status_code, response.json()["error"]["code"]) == (405, "wrong_method")
            page = await server.get("/")
            assert page.headers["content-security-policy"].startswith("default-src 'none'")
            assert page.headers["x-content-type-options"] == "nosniff"
            assert page.headers["x-request-id"] != (await server.get("/")).headers["x-request-id"]
            info = checked(await server.get("/info"), method="get")
            assert (info["classes"], info["batch_sizes"], info["explains"]) == (["red", "green", "blue"], [1, 4], False)
            for top in ("0", "-1", "x", "1e3", "9" * 20):
                bad = await server.post(f"/predict?top={top}", content=image("red"))
                assert bad.status_code == 422, top
            none = await server.post("/explain", content=image("red"))
            assert (none.status_code, checked(none)["error"]["code"]) == (501, "no_picture")

    run(answers())


def test_pictures():
    class OfClass:
        method = "drawn"

        def __call__(self, pixels, row, wanted, answers):
            name = wanted or answers[0]
            assert np.allclose(pixels.mean(axis=(0, 1)), row)
            return Drawn(b"\x89PNG" + bytes([COLOURS.index(name)]), f"where {name} is", name)

    async def answers():
        async with here(heatmap=OfClass()) as server:
            found = checked(await server.post("/explain", content=image("green")))
            assert (found["explained"], found["image"]["classes"][0]["name"]) == ("green", "green")
            assert base64.b64decode(found["picture"].partition(",")[2]) == b"\x89PNG\x01"
            assert (found["caption"], "colours" in found) == ("where green is", False)
            other = checked(await server.post("/explain?class=blue", content=image("green")))
            assert (other["explained"], base64.b64decode(other["picture"].partition(",")[2])[-1]) == ("blue", 2)
            unknown = await server.post("/explain?class=pink", content=image("green"))
            assert unknown.status_code == 422
            two = await server.post("/explain", files=[("a", ("a.png", image("red")))] * 2)
            assert two.status_code == 422
            text = await server.post("/explain", content=b"hello")
            assert (text.status_code, checked(text)["error"]["status"]) == (415, 415)
            assert server.service.pipeline.inside == server.service._explaining == 0

    run(answers())


def test_metrics_and_log():
    stream = io.StringIO()

    async def answers():
        log = AccessLog(stream)
        async with here(log=log) as server:
            await server.post("/predict", files=[("a", ("a", image("red"))), ("a", ("b", b"x"))])
            await server.get("/no%0Athing")
            text = (await server.get("/metrics")).text
            log.close()
            return text

    text = run(answers())
    for line in (
        'resnet_jax_requests_total{path="/predict",status="200"} 1.0',
        'resnet_jax_requests_total{path="other",status="404"} 1.0',
        'resnet_jax_images_total{result="answered"} 1.0',
        'resnet_jax_images_total{result="failed"} 1.0',
        "resnet_jax_batch_images_count 1.0",
        "resnet_jax_queue_images 0.0",
        "resnet_jax_ready 1.0",
    ):
        assert line in text, line
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["status"] for line in lines] == [200, 404, 200]
    assert (lines[0]["images"], lines[0]["batch"], lines[0]["path"]) == (2, 1, "/predict")
    assert lines[1]["path"] == "/no\nthing"  # in one line of the log


def test_the_document_is_whole():
    text = json.dumps(DOCUMENT)
    for name in {part.partition('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}:
        assert name in DOCUMENT["components"]["schemas"], name
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    operations = [each for path in DOCUMENT["paths"].values() for each in path.values()]
    assert len({each["operationId"] for each in operations}) == len(operations)

    async def answers():
        async with here() as server:
            routes = {route.path for route in server.service.application().routes}
            assert routes == set(DOCUMENT["paths"])
            assert (await server.get("/openapi.json")).json() == DOCUMENT

    run(answers())


def test_options_that_cannot_be():
    for sizes in ((), (4, 1), (0, 2)):
        with pytest.raises(UsageError, match=r"batching\.sizes"):
            Batching(sizes)
    with pytest.raises(UsageError, match="memory_mib"):
        Limits(body_mib=200)
    with pytest.raises(UsageError, match=r"limits\.queue"):
        Limits(images=300, queue=200)
