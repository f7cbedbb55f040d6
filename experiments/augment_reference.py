"""Store the results of Pillow, torchvision and timm on small images, as references for the tests of our operations.

    python experiments/augment_reference.py IMAGE.jpg tests/data/augment_reference.npz

Run it in an environment with numpy, pillow, torch, torchvision and timm, and nothing of this package. IMAGE is any
photograph; the committed file uses a tench (n01440764, ImageNet). It writes ``image/NAME``, uint8 (height, width, 3);
``result/NAME/OPERATION/MAGNITUDE``; ``tables``, JSON of the policies' magnitudes; and ``versions``.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import math
import random
import sys

import numpy as np

COLOUR = {
    "brightness": [0.0, 0.1, 0.63, 0.9960784, 1.0, 1.37, 1.9],
    "contrast": [0.0, 0.1, 0.63, 1.37, 1.9],
    "saturation": [0.0, 0.1, 0.63, 1.37, 1.9],
    "sharpness": [0.0, 0.1, 0.63, 1.37, 1.9],
    "posterize": [1, 4, 7, 8],
    "solarize": [0, 100.5, 128, 256],
    "solarize_add": [0, 44, 110],
    "autocontrast": [0],
    "equalize": [0],
    "invert": [0],
    "grey": [0],
    "hue": [-0.5, -0.13, 0.1, 0.37],
}
AFFINE = {
    "shear_x": [-0.3, 0.21],
    "shear_y": [-0.3, 0.99],
    "translate_x": [-7, 5],
    "translate_y": [-7, 5],
    "rotate": [-30, 17.5, 90, 135],
    "scale": [0.73, 1.4],
}
#: angle, x and y in pixels, factor, shears in degrees: torchvision's affine.
GENERAL = [(25.0, 4, -3, 1.2, 10.0, -5.0), (-70.0, 0, 6, 0.8, 0.0, 20.0)]
BLUR = [(3, 0.5), (5, 1.0), (7, 2.0)]


def main(photograph: str, out: str) -> None:
    """Write the file."""
    import PIL
    import timm
    import torch
    import torchvision
    from PIL import Image, ImageOps
    from torchvision.transforms import InterpolationMode, functional as F

    rng = np.random.default_rng(0)
    natural = Image.open(photograph).convert("RGB").resize((40, 27), Image.Resampling.LANCZOS)
    ramp = np.linspace(20, 180, 24)[None] + np.arange(20)[:, None] * 2.5
    images = {
        "natural": np.asarray(natural),
        "noise": rng.integers(0, 256, (14, 18, 3), np.uint8),
        "ramp": np.stack([ramp, 0.6 * ramp, 210 - ramp], -1).astype(np.uint8),
        "constant": np.full((6, 5, 3), (7, 130, 255), np.uint8),
        "two": np.where(rng.random((18, 18, 3)) < 0.9, 100, 103).astype(np.uint8),
    }

    def solarize_add(image, added):
        return image.point([min(255, v + int(added)) if v < 128 else v for v in range(256)] * 3)

    def on_tensor(image, size, sigma):
        return F.gaussian_blur(image, [size, size], [sigma, sigma])

    colour = {
        "brightness": F.adjust_brightness,
        "contrast": F.adjust_contrast,
        "saturation": F.adjust_saturation,
        "sharpness": F.adjust_sharpness,
        "posterize": F.posterize,
        "solarize": F.solarize,
        "solarize_add": solarize_add,
        "autocontrast": lambda image, _: F.autocontrast(image),
        "equalize": lambda image, _: F.equalize(image),
        "invert": lambda image, _: F.invert(image),
        "grey": lambda image, _: F.to_grayscale(image, 3),
        "hue": F.adjust_hue,
    }
    found = {f"image/{name}": image for name, image in images.items()}
    for name, image in images.items():
        for operation, magnitudes in COLOUR.items():
            for magnitude in magnitudes:
                if operation == "solarize" and magnitude > 255:
                    result = ImageOps.solarize(Image.fromarray(image), magnitude)
                else:
                    result = colour[operation](Image.fromarray(image), magnitude)
                found[f"result/{name}/{operation}/{magnitude}"] = np.asarray(result)
    modes = {"nearest": InterpolationMode.NEAREST, "bilinear": InterpolationMode.BILINEAR}
    for name in ("natural", "ramp"):
        image = Image.fromarray(images[name])
        for mode, way in modes.items():
            more = {"interpolation": way, "fill": [10, 20, 30]}

            def affine(image, more=more, **given):
                values = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], **given}
                return F.affine(image, **values, **more)

            def sheared(image, x, y, affine=affine):
                angles = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
                return affine(image, shear=angles, center=[0, 0])

            maps = {
                "shear_x": lambda image, m: sheared(image, m, 0),
                "shear_y": lambda image, m: sheared(image, 0, m),
                "translate_x": lambda image, m: affine(image, translate=[m, 0]),
                "translate_y": lambda image, m: affine(image, translate=[0, m]),
                "rotate": lambda image, m, more=more: F.rotate(image, m, **more),
                "scale": lambda image, m: affine(image, scale=m),
            }
            if mode == "bilinear":
                maps = {key: maps[key] for key in ("rotate", "shear_x")} if name == "natural" else {}
            for operation, function in maps.items():
                for magnitude in AFFINE[operation]:
                    found[f"result/{name}/{operation}/{magnitude}/{mode}"] = np.asarray(function(image, magnitude))
            if name == "natural":
                for angle, x, y, factor, *shear in GENERAL:
                    result = affine(image, angle=angle, translate=[x, y], scale=factor, shear=shear)
                    key = "_".join(str(v) for v in (angle, x, y, factor, *shear))
                    found[f"result/{name}/affine/{key}/{mode}"] = np.asarray(result)
    for size, sigma in BLUR:
        result = on_tensor(Image.fromarray(images["natural"]), size, sigma)
        found[f"result/natural/blur/{size}_{sigma}"] = np.asarray(result)
    found["tables"] = np.array(json.dumps(tables((27, 40))))
    versions = {"pillow": PIL.__version__, "torchvision": torchvision.__version__, "torch": torch.__version__}
    found["versions"] = np.array(json.dumps({**versions, "timm": timm.__version__, "numpy": np.__version__}))
    np.savez_compressed(out, **found)


def tables(size: tuple[int, int]) -> dict:
    """Return the magnitudes of the policies of torchvision and timm, for images of (height, width)."""
    from timm.data import auto_augment as timm_policies
    from torchvision.transforms import autoaugment

    def written(space):
        return {name: [values.tolist(), bool(signed)] for name, (values, signed) in space.items()}

    kinds = autoaugment.AutoAugmentPolicy
    auto = {kind.value: autoaugment.AutoAugment(kind) for kind in kinds}
    increasing = {}
    parameters = {"translate_pct": 0.45}
    for name in timm_policies._RAND_INCREASING_TRANSFORMS:
        function, rows = timm_policies.LEVEL_TO_ARG[name], []
        for level in (0, 1.3, 5, 9, 10):
            drawn = set()
            for seed in range(16) if function else ():  # both signs
                random.seed(seed)
                drawn.add(float(function(level, parameters)[0]))
            rows.append(sorted(drawn))
        increasing[name] = rows
    return {
        "rand_augment": written(autoaugment.RandAugment()._augmentation_space(31, size)),
        "trivial_augment": written(autoaugment.TrivialAugmentWide()._augmentation_space(31)),
        "auto_augment_space": written(autoaugment.AutoAugment()._augmentation_space(10, size)),
        "augmix": written(autoaugment.AugMix()._augmentation_space(10, size)),
        "auto_augment": {name: policy.policies for name, policy in auto.items()},
        "timm_levels": [0, 1.3, 5, 9, 10],
        "timm_increasing": increasing,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
