r"""Do gradients shatter with depth, and do skips keep them together? Autocorrelations at random initialization.

Claim examined (Balduzzi et al. 2017, arXiv 1702.08591, figures 1 and 2): along a line of inputs, the gradients of deep
plain rectifier nets look like white noise. Those of residual nets with batch norm look nearly like brown noise, the
more so with a branch weighted by beta = 0.1.

Expected: at lag 1, the autocorrelation of plain nets falls from near that of brown noise at one layer to near 0 at 50
(with batch norm it does; without, it only fell to 0.74), and that of residual nets stays well above. Fully connected
nets: width 200, 256 inputs in [-2, 2], mean of 20 draws. Convolutional nets: the CIFAR networks of 20, 56 and 110
layers and the same without skips, one draw each.

    uv run python experiments/shattering.py --out experiments/results/shattering
    uv run python experiments/shattering.py --out FOLDER --smoke

Hardware, time and result: experiments/results/shattering/README.md. ``--smoke`` is a small size that only shows that
everything runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import json
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import resnet_jax
from resnet_jax import depth
from resnet_jax.models import create_model, init_variables
from resnet_jax.report.canvas import GREY, PALETTE, new_figure

#: Name, whether there are skips, batch norm, beta.
KINDS = {
    "plain": (False, False, 1.0),
    "plain, batch norm": (False, True, 1.0),
    "residual, batch norm, beta 1": (True, True, 1.0),
    "residual, batch norm, beta 0.1": (True, True, 0.1),
}
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is computed."""

    width: int = 200
    inputs: int = 256
    depths: tuple[int, ...] = (1, 2, 10, 24, 50)
    draws: int = 20
    lags: int = 15
    layers: tuple[int, ...] = (20, 56, 110)
    widths: tuple[int, ...] = (16, 32, 64)
    image: int = 16
    points: int = 128


SMOKE = Size(width=8, inputs=32, depths=(2,), draws=2, lags=4, layers=(20,), widths=(2, 4, 4), image=4, points=8)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def dense_gradients(key: jax.Array, kind: str, layers: int, width: int, inputs: int, draws: int) -> jax.Array:
    """Return df/dx of random nets of one input at points of [-2, 2], (draws, inputs).

    Weights and biases are normal of variance 2 / fan-in, those of the first layer of variance 1. Statistics of batch
    norm are those of all inputs, held constant.
    """
    skip, norm, beta = KINDS[kind]
    x = jnp.linspace(-2.0, 2.0, inputs)

    def one(key):
        first, last, *rest = jax.random.split(key, layers + 2)
        into, out = jax.random.normal(first, (2, width)), jax.random.normal(last, (width,)) / jnp.sqrt(width)

        def total(x):
            def layer(h, key):
                drawn = jax.random.normal(key, (width + 1, width)) * jnp.sqrt(2.0 / width)
                seen = h
                if norm:
                    mean, var = jax.lax.stop_gradient((h.mean(0, keepdims=True), h.var(0, keepdims=True)))
                    seen = (h - mean) / jnp.sqrt(var + 1e-5)
                branch = jax.nn.relu(seen) @ drawn[:width] + drawn[width:]
                return (h + beta * branch if skip else branch), None

            h = x[:, None] * into[:1] + into[1:]
            return jnp.sum(jax.lax.scan(layer, h, jnp.stack(rest))[0] @ out)

        return jax.grad(total)(x)

    return jax.lax.map(one, jax.random.split(key, draws))


def correlate(gradients: np.ndarray, lags: int) -> dict[str, list[float]]:
    """Return mean and standard deviation over draws of the autocorrelation."""
    rows = np.stack([depth.autocorrelation(one, lags) for one in gradients])
    return {"mean": rows.mean(0).tolist(), "std": rows.std(0, ddof=1).tolist()}


def convolutional(layers: int, skips: bool, size: Size) -> depth.Shattering:
    """Measure a CIFAR network at initialization between two images: smooth random ones, of mean 0 and variance 1."""
    name = f"{'resnet' if skips else 'plain'}{layers}_cifar"
    choices: dict[str, Any] = {} if skips else {"shortcut": "none"}
    model = create_model(f"resnet{layers}_cifar", widths=size.widths, execution="scan", **choices)
    shape = (size.image, size.image, 3)
    variables = jax.jit(lambda key: init_variables(model, key, shape))(jax.random.key(0))
    rough = np.random.default_rng(0).normal(size=(2, 4, 4, 3))
    images = np.asarray(jax.image.resize(jnp.asarray(rough, jnp.float32), (2, *shape), "cubic"))
    images = (images - images.mean((1, 2, 3), keepdims=True)) / images.std((1, 2, 3), keepdims=True)
    found = depth.measure_shattering(
        model, variables, images[0], images[1], size.points, lags=size.lags, statistics="line"
    )
    return dataclasses.replace(found, about={**found.about, "network": name})


def draw_correlations(found: dict[str, Any], path: Path) -> None:
    """Draw the autocorrelation over the lag, one panel for each kind, with the noises for comparison."""
    panels = [*KINDS, "convolutional, plain", "convolutional, residual"]
    figure = new_figure((9.0, 6.4), dpi=140)
    dense: dict[str, Any] = {}
    images: dict[str, Any] = {}
    for axes, panel in zip(np.ravel(figure.subplots(2, 3, sharex=True, sharey=True)), panels, strict=True):
        known = images if panel.startswith("convolutional") else dense
        for noise, style in (("brown noise", "-"), ("white noise", ":")):
            (dense[noise],) = axes.plot(
                found["noise"][noise]["mean"], color=GREY, linestyle=style, linewidth=3, alpha=0.5
            )
        for index, (label, curve) in enumerate(found["curves"][panel].items()):
            look = {"color": PALETTE[index], "linestyle": STYLES[index]}
            (known[f"{label} layer{'s' * (int(label) != 1)}"],) = axes.plot(curve["mean"], **look)
        shown = panel.removeprefix("convolutional, ")
        axes.set_title(f"{shown}\n({'fully connected' if known is dense else 'convolutional'})", fontsize=10)
        axes.set_xticks(range(0, len(found["noise"]["brown noise"]["mean"]), 3))
        axes.set_ylim(-0.2, 1.05)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for lines, title, where in (
        (dense, f"fully connected (mean of {found['about']['size']['draws']} draws)", "outside lower left"),
        (images, "convolutional (one draw)", "outside lower right"),
    ):
        figure.legend(lines.values(), lines.keys(), title=title, loc=where, ncols=3, fontsize=9, frameon=False)
    for axes in figure.axes[3:]:
        axes.set_xlabel("lag, steps along the line of inputs")
    figure.supylabel("autocorrelation of the gradients", fontsize=10)
    figure.suptitle("Do gradients of neighboring inputs resemble each other? Networks at initialization", fontsize=12)
    figure.savefig(path)


def draw_gradients(rows: dict[str, np.ndarray], path: Path) -> None:
    """Draw one draw of the gradients over the input, each scaled by its standard deviation."""
    figure = new_figure((9.0, 2 * len(rows) / 2 + 0.8), dpi=140)
    grid = np.ravel(figure.subplots(-(-len(rows) // 2), 2))
    for axes in grid[len(rows) :]:
        axes.remove()
    for axes, (name, row) in zip(grid, rows.items(), strict=False):
        colour = GREY if name.endswith("noise") else PALETTE[0]
        axes.plot(np.linspace(-2, 2, len(row)), (row - row.mean()) / row.std(), color=colour, linewidth=0.8)
        axes.set_title(f"{name}, for comparison" if name.endswith("noise") else name, fontsize=10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("input", fontsize=10)
    figure.supylabel("gradient, in standard deviations", fontsize=10)
    figure.suptitle("Gradient of a random network's output along a line of inputs (one draw each)", fontsize=12)
    figure.savefig(path)


def shown_gradients(size: Size) -> dict[str, np.ndarray]:
    """Return the rows of :func:`draw_gradients`: the first draw of the deepest nets and the plain one of a layer."""
    shown: dict[str, np.ndarray] = {}
    for kind in KINDS:
        for layers in size.depths:
            if layers == size.depths[-1] or (kind == "plain" and layers == size.depths[0]):
                key = jax.random.fold_in(jax.random.key(0), layers)
                gradients = dense_gradients(key, kind, layers, size.width, size.inputs, size.draws)
                shown[f"{kind}, {layers} layer{'s' * (layers != 1)}"] = np.asarray(gradients)[0]
    noise = noises(size)[0]
    return {**shown, "white noise": noise, "brown noise": np.cumsum(noise)}


def noises(size: Size) -> np.ndarray:
    """Return white noise, (draws, inputs)."""
    return np.random.default_rng(0).normal(size=(size.draws, size.inputs))


def table(found: dict[str, Any]) -> str:
    """Return the autocorrelations at lags 1 and 5 as a Markdown table."""
    lines = ["| network | layers | autocorrelation, lag 1 | autocorrelation, lag 5 |", "|---|---|---|---|"]
    curves = {**found["curves"], **{name: {"": curve} for name, curve in found["noise"].items()}}
    for kind, by_depth in curves.items():
        for layers, curve in by_depth.items():
            mean, std = curve["mean"], curve.get("std")
            cells = [f"{mean[k]:.3f}" + (f" ± {std[k]:.3f}" if std else "") for k in (1, min(5, len(mean) - 1))]
            lines.append(f"| {kind} | {layers} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write results.json, table.md and the figures."""
    parser = argparse.ArgumentParser(description="Autocorrelation of gradients along a line of inputs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args(arguments)
    size, began = SMOKE if options.smoke else Size(), time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    noise = noises(size)
    found: dict[str, Any] = {
        "noise": {
            "brown noise": correlate(np.cumsum(noise, axis=1), size.lags), "white noise": correlate(noise, size.lags)
        },
        "curves": {},
    }  # fmt: skip
    for kind in KINDS:
        found["curves"][kind] = {}
        for layers in size.depths:
            key = jax.random.fold_in(jax.random.key(0), layers)
            gradients = np.asarray(dense_gradients(key, kind, layers, size.width, size.inputs, size.draws))
            found["curves"][kind][layers] = correlate(gradients, size.lags)
            print(kind, layers, found["curves"][kind][layers]["mean"][1], flush=True)
    for panel, skips in (("convolutional, plain", False), ("convolutional, residual", True)):
        found["curves"][panel] = {}
        for layers in size.layers:
            measured = convolutional(layers, skips, size)
            found["curves"][panel][layers] = {"mean": measured.autocorrelation.tolist()}
            measured.save(options.out / f"{measured.about['network']}.npz")
            print(panel, layers, measured.autocorrelation[1], flush=True)
    found["about"] = {
        "command": shlex.join(["python", "experiments/shattering.py", *(arguments or sys.argv[1:])]),
        "size": dataclasses.asdict(size), "date": datetime.date.today().isoformat(),
        "seconds": round(time.monotonic() - began, 1), "device": jax.devices()[0].device_kind,
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__,
                     "resnet_jax": getattr(resnet_jax, "__version__", "unknown")},
    }  # fmt: skip
    (options.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "table.md").write_text(table(found))
    draw_correlations(found, options.out / "autocorrelation.png")
    draw_gradients(shown_gradients(size), options.out / "gradients.png")


if __name__ == "__main__":
    main()
