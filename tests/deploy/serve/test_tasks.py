"""Answers and pictures of segmentation and detection, on images whose right answer is known."""

from __future__ import annotations

import base64

import cv2
import numpy as np

from resnet_jax.deploy.serve.heatmap import Boxes, PixelClasses, heatmap_of
from resnet_jax.runs.predict import Prediction
from tests.deploy.serve.test_app import checked
from tests.deploy.serve.tools import COLOURS, ColourEngine, here, image, run


def decoded(url: str) -> np.ndarray:
    """Return the pixels of a data: URL, as they are stored, RGB of colours."""
    found = cv2.imdecode(np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8), cv2.IMREAD_UNCHANGED)
    return found if found.ndim == 2 else found[..., ::-1]


def halves() -> bytes:
    """A PNG of 8x8 pixels whose left half is green and whose right half is blue."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4, 1] = pixels[:, 4:, 0] = 200
    return cv2.imencode(".png", pixels)[1].tobytes()


class PixelEngine(ColourEngine):
    """Says of every pixel which colour it has, at half the sides."""

    task = "segmentation"

    def compute(self, images):
        return images[:, ::2, ::2].astype(np.float64) / 10

    def prediction(self, row, sides, top):
        found = row.argmax(axis=-1).astype(np.uint8)
        shares = np.bincount(found.ravel(), minlength=3) / found.size
        order = [int(k) for k in np.argsort(-shares) if shares[k]][:top]
        names = tuple(COLOURS[k] for k in order)
        return Prediction("", names, tuple(shares[order]), fields={"segmentation": found})


class BoxEngine(ColourEngine):
    """Finds a box of green in the left half of every image."""

    task = "detection"

    def boxes_in(self, row):
        return [(1, [1.0, 0.0, 7.0, 3.0])]


def test_pixels():
    async def answers():
        engine = PixelEngine()
        draw = heatmap_of(engine)
        assert isinstance(draw, PixelClasses)
        async with here(engine, heatmap=draw) as server:
            page = (await server.get("/")).text
            assert "which of 3 classes" in page
            plain = checked(await server.post("/predict", content=halves()))["images"][0]
            assert [(c["name"], c["probability"]) for c in plain["classes"]] == [("green", 0.5), ("blue", 0.5)]
            assert "mask" not in plain
            mask = decoded(checked(await server.post("/predict?mask=1", content=halves()))["images"][0]["mask"])
            assert mask.tolist() == [[1] * 4 + [2] * 4] * 8
            assert (await server.post("/predict?mask=yes", content=halves())).status_code == 422
            whole = checked(await server.post("/explain", content=halves()))
            assert (whole.get("explained"), whole["caption"]) == (None, "what every pixel is taken for")
            shown = decoded(whole["picture"]).astype(int)
            assert shown.shape == (256, 256, 3)
            for name, column in (("green", 0), ("blue", 255)):  # 45 % of the image, 55 % of the colour of the class
                tint = np.array(list(bytes.fromhex(whole["colours"][name][1:])))
                seen = 200 * np.array([name == each for each in COLOURS])
                assert np.abs(shown[0, column] - (0.45 * seen + 0.55 * tint)).max() <= 1
            green = decoded(checked(await server.post("/explain?class=green", content=halves()))["picture"])
            assert green[0, 10].mean() > green[0, 245].mean() + 50  # bright where it is likely

    run(answers())


def test_boxes():
    async def answers():
        engine = BoxEngine()
        async with here(engine, heatmap=Boxes(engine)) as server:  # pyright: ignore[reportArgumentType]
            found = checked(await server.post("/explain", content=image("red")))
            shown, green = decoded(found["picture"]), list(bytes.fromhex(found["colours"]["green"][1:]))
            assert found["caption"] == "1 box"
            assert shown[100, 96].tolist() == shown[32, 50].tolist() == green
            assert shown[100, 50].tolist() == shown[100, 200].tolist() == [200, 0, 0]
            none = checked(await server.post("/explain?class=red", content=image("red")))
            assert (none["caption"], none["explained"]) == ("no box of “red”", "red")
            refused = await server.post("/predict?mask=1", content=image("red"))
            assert "mask is for segmentation" in checked(refused)["error"]["message"]

    run(answers())


def test_a_task_without_a_picture_says_so():
    class Values(ColourEngine):
        task = "regression"

    async def answers():
        engine = Values()
        assert heatmap_of(engine) is None
        async with here(engine) as server:
            told = checked(await server.post("/explain", content=image("red")))["error"]
            assert (told["status"], "its task is regression" in told["message"]) == (501, True)

    run(answers())
