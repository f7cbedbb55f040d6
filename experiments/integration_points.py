"""Integrated gradients of a ReLU network: which points on the path make the sum accurate, and which the map.

    uv run python experiments/integration_points.py --data /path/to/shared/data

It uses the first 40 pixel-exact CIFAR-10 test images and the imported ResNet-20. Score and gradient are computed at
1,025 points between the mean image and each image (4 minutes on one CPU core; ten images at a time are kept in
``--work``), and every rule uses some of these. The error of the sum is relative to the change of the score. The error
of the map is the L2 distance to the sum of all 1,025 points, in 128 random projections of the map, which preserve
distances. Writes results/explain/points.csv.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.deploy.explain import input_gradient
from resnet_jax.models import create_model
from resnet_jax.weights.convert import to_variables
from resnet_jax.weights.files import load_state_dict

OUT = Path(__file__).parent / "results" / "explain" / "points.csv"
PARTS, IMAGES, BATCH = 1024, 40, 10
MEAN, STD = (np.array(each, np.float32) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def along_the_way(model: Any, variables: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return score, its derivative along the way, and projections of gradient x image, (points, N, ...)."""
    x = jnp.asarray((images.astype(np.float32) / 255 - MEAN) / STD)
    target = model.apply(variables, x, train=False).argmax(-1)
    signs = jax.random.rademacher(jax.random.key(0), (x[0].size, 128), jnp.float32) / np.sqrt(128)

    @jax.jit
    def some(at: jax.Array) -> Any:
        def one(_: None, t: jax.Array) -> tuple[None, Any]:
            score, gradient = input_gradient(model, variables, t * x, target)
            parts = (gradient * x).reshape(len(x), -1)
            return None, (score, parts.sum(1), parts @ signs)

        return jax.lax.scan(one, None, at)[1]

    at = jnp.arange(PARTS + 1) / PARTS
    found = [jax.device_get(some(at[start : start + 41])) for start in range(0, PARTS + 1, 41)]
    return dict(zip("fdp", (np.concatenate(each) for each in zip(*found, strict=True)), strict=True))


def middles(parts: int) -> np.ndarray:
    """Return weights of the middles of equal parts, (points,)."""
    weights = np.zeros(PARTS + 1)
    weights[PARTS // parts // 2 :: PARTS // parts] = 1 / parts
    return weights


def trapezoids(nodes: Any) -> np.ndarray:
    """Return weights of a sum by trapezoids between some points."""
    weights, widths = np.zeros(PARTS + 1), np.diff(nodes) / PARTS
    np.add.at(weights, nodes[:-1], widths / 2)
    np.add.at(weights, nodes[1:], widths / 2)
    return weights


def equal(parts: int) -> np.ndarray:
    """Return trapezoids of equal parts."""
    return trapezoids(np.arange(0, PARTS + 1, PARTS // parts))


def doubled(parts: int, most: int) -> list[np.ndarray]:
    """Return middles of parts, then with those between the middles too, then with the middles of twice as many, ..."""
    between = trapezoids(np.arange(0, PARTS + 1, PARTS // parts))
    for end, inside in ((0, PARTS // parts // 4), (PARTS, PARTS - PARTS // parts // 4)):
        between[inside], between[end] = between[end], 0  # the half part at the end, at its middle
    rules = [middles(parts), (middles(parts) + between) / 2]
    while (parts := 2 * parts) <= most // 2:
        rules.append((rules[-1] + middles(parts)) / 2)
    return rules


def halved_where_wrong(f: np.ndarray, d: np.ndarray, first: int, points: int) -> np.ndarray:
    """Return trapezoids of parts, of which again and again the one is halved whose own sum is most wrong."""
    nodes = np.arange(0, PARTS + 1, PARTS // first)
    while len(nodes) < points:
        a, b = nodes[:-1], nodes[1:]
        wrong = np.abs((b - a) / PARTS * (d[a] + d[b]) / 2 - (f[b] - f[a])) * (b - a > 1)
        at = int(wrong.argmax())
        nodes = np.insert(nodes, at + 1, (nodes[at] + nodes[at + 1]) // 2)
    return trapezoids(nodes)


def made_complete(weights: np.ndarray, f: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Return the weights that are nearest to some and whose sum is the change of the score (a regression estimator)."""
    mean = weights @ d  # they add up to 1
    return weights * (1 + (f[-1] - f[0] - mean) * (d - mean) / (weights @ (d - mean) ** 2))


def main() -> None:
    """Compute what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "integration-points")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    model = create_model("resnet20_cifar")
    file = options.data / "pytorch-cifar-resnets" / "resnet20-12fca82f.th"
    variables = to_variables(load_state_dict(file), model)
    images = np.load(options.data / "cifar10-test-lossless-1017.npz")["x"][:IMAGES]
    parts = []
    for start in range(0, IMAGES, BATCH):
        if not (kept := options.work / f"grid_{start}.npz").is_file():
            found = along_the_way(model, variables, images[start : start + BATCH])
            np.savez(kept, f=found["f"], d=found["d"], p=found["p"])
        parts.append(dict(np.load(kept)))
    f, d, p = (np.concatenate([part[name] for part in parts], axis=1).astype(np.float64) for name in "fdp")
    chain = doubled(64, PARTS)
    rules: dict[str, Any] = {f"middles of {n} equal parts": lambda f, d, n=n: middles(n) for n in (64, 128, 256)}
    rules |= {f"trapezoids of {n} equal parts": lambda f, d, n=n: equal(n) for n in (64, 128, 256)}
    for n in (8, 16, 32):
        rules[f"{n} parts, halved where the sum is wrong"] = lambda f, d, n=n: halved_where_wrong(f, d, n, 65)
    rules["64 equal parts, weights made complete"] = lambda f, d: made_complete(middles(64), f, d)
    rules["64 equal parts, doubled until within 1 %"] = lambda f, d: next(
        (each for each in chain if abs(each @ d / (f[-1] - f[0]) - 1) <= 0.01), chain[-1]
    )
    rows, names = (
        [],
        ("rule", "gradients", "sum off, median", "sum off, most", "within 1 %", "map off, median", "map off, most"),
    )
    for rule, choose in rules.items():
        weights = np.stack([choose(f[:, row], d[:, row]) for row in range(IMAGES)], axis=1)
        wrong = np.abs((weights * d).sum(0) / (f[-1] - f[0]) - 1)
        maps, exact = np.einsum("tn,tnk->nk", weights, p), np.einsum("t,tnk->nk", equal(PARTS), p)
        off = np.linalg.norm(maps - exact, axis=1) / np.linalg.norm(exact, axis=1)
        used = (weights != 0).sum(0).mean()
        rows.append((rule, f"{used:.0f}", f"{np.median(wrong):.2%}", f"{wrong.max():.1%}",
                     f"{(wrong <= 0.01).sum()} of {IMAGES}", f"{np.median(off):.2%}", f"{off.max():.1%}"))  # fmt: skip
        print(*rows[-1], sep=" | ")
    with OUT.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out, lineterminator="\n").writerows([names, *rows])


if __name__ == "__main__":
    main()
