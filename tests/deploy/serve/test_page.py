"""The page as a person uses it: a real server, and a real browser into which files are dropped."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.foreign import import_weights
from tests.deploy.serve.browser import COMMAND, Browser
from tests.deploy.serve.tools import run, there

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CARD = "document.querySelectorAll('.result')[0]"
"""The newest result: the page puts it first."""
FITS = "document.documentElement.scrollWidth <= window.innerWidth"


@pytest.mark.slow
@pytest.mark.skipif(COMMAND is None, reason="there is no chromium, chromium-browser or google-chrome on this machine")
def test_a_person_drops_images_into_the_page(shared_data, tmp_path):
    weights = shared_data / "pytorch-cifar-resnets" / "resnet20-12fca82f.th"
    import_weights(weights, ModelSpec("resnet20_cifar"), tmp_path / "run")
    (tmp_path / "names.txt").write_text("\n".join(CIFAR10))
    with np.load(shared_data / "cifar10-test-lossless-1017.npz") as data:
        pixels, label = data["x"][1], CIFAR10[int(data["y"][1])]
    cv2.imwrite(str(tmp_path / "photo.png"), pixels[..., ::-1])
    (tmp_path / "letter.jpg").write_text("Dear network, I am no picture.")
    command = ["-m", "resnet_jax", "serve", str(tmp_path / "run"), "--port", "0", "--batching.sizes", "1"]
    command += ["--class-names", str(tmp_path / "names.txt")]

    async def visit(url: str) -> None:
        async with Browser() as browser:
            await browser.size(1200, 900)
            await browser.open(url)
            assert await browser.run("document.title") == "resnet20_cifar"
            assert "from 10 classes" in await browser.run("document.body.innerText")
            await browser.drop("#drop", [str(tmp_path / "photo.png")])
            await browser.until(f"{CARD}?.querySelectorAll('.pictures img').length === 2")
            first = await browser.run(f"{CARD}.querySelector('.bars li').innerText")
            assert label in first, first
            assert await browser.run(f"{CARD}.querySelectorAll('.bars li').length") == 5
            assert "Grad-CAM" in await browser.run(f"{CARD}.querySelector('.pictures').innerText")
            heat = await browser.run(f"{CARD}.querySelectorAll('.pictures img')[1].src")
            # another class, another map
            await browser.run(f"{CARD}.querySelectorAll('.bars button')[1].click()")
            await browser.until(f"{CARD}.querySelectorAll('.pictures img')[1].src !== {heat!r}")
            # on a telephone, in the dark
            await browser.size(390, 844, dark=True)
            await browser.open(url)
            await browser.drop("#drop", [str(tmp_path / "letter.jpg")])
            await browser.until(f"{CARD}?.querySelector('.trouble')?.hidden === false")
            told = await browser.run(f"{CARD}.querySelector('.trouble').innerText")
            assert "not a JPEG or PNG" in told, told
            await browser.choose("#file", [str(tmp_path / "photo.png")])
            await browser.until(f"{CARD}.querySelectorAll('.pictures img').length === 2")
            assert await browser.run(f"{CARD}.querySelector('.pictures img').naturalWidth") > 0
            assert await browser.run(FITS)
            await browser.screenshot(tmp_path / "phone.png")
            troubles = [each for each in browser.trouble if each.get("entry", {}).get("level") != "verbose"]
            assert all("415" in str(each) for each in troubles), troubles
        shown = cv2.imread(str(tmp_path / "phone.png"))
        assert shown[5, 5].max() < 60  # dark it is

    with there(command, tmp_path) as server:
        run(visit(server.url))
        assert server.stop() == 143
