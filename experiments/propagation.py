"""Does the propagation check pass networks that are known to train? `depth.check` on every named network, new.

Claim examined. The check fails where signals or gradients change exponentially with depth, and only there. Every
network of the zoo has been trained by somebody, except plain networks of 32 layers or more (He et al. 2016, arXiv
1512.03385, fig. 1: 56 plain layers train worse than 20).

    XLA_FLAGS=--xla_backend_optimization_level=0 uv run python experiments/propagation.py \
        --out experiments/results/propagation

Batches of 4 images of independent N(0, 1) pixels, 32 pixels a side for CIFAR's networks and 64 for ImageNet's, two
draws of the weights. ``--names`` takes patterns. Hardware, time and result: experiments/results/propagation/README.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax import create_model, list_models
from resnet_jax.depth import check
from resnet_jax.depth.checking import Direction


def measure(name: str, **choices: Any) -> dict[str, Any]:
    """Return the verdict on one network, and the numbers that it is about."""
    began = time.perf_counter()
    model = create_model(name, **choices)
    side = 32 if model.config.stem == "cifar" else 64
    found = check(model, (4, side, side, model.config.in_channels), draws=2)
    return {
        "network": name,
        "ok": found.ok,
        "blocks": len(found.names),
        "signal": _numbers(found.signal),
        "gradient": _numbers(found.gradient),
        "sentences": list(found.sentences),
        "seconds": round(time.perf_counter() - began, 1),
    }


def _numbers(one: Direction) -> dict[str, Any]:
    """Return what the verdict is about; root mean squares by depth are those of both draws together."""
    root = [float(f"{value:.4g}") for value in np.sqrt(one.measured)]
    return {"rate": round(one.rate, 4), "total": float(f"{one.total:.3g}"), "root_mean_square": root}


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table, a row for each network."""
    lines = [
        "| network | blocks | signal: factor per block | total | gradient: factor per block | total | verdict |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        numbers = " | ".join(f"{row[of]['rate']:.3f} | {row[of]['total']:.3g}" for of in ("signal", "gradient"))
        lines.append(f"| {row['network']} | {row['blocks']} | {numbers} | {'passes' if row['ok'] else '**fails**'} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Check every network; what is there after each is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--names", nargs="+", default=["*"], help="patterns of names")
    given = parser.parse_args(arguments)
    names = list(dict.fromkeys(name for pattern in given.names for name in list_models(pattern)))
    given.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in names:
        rows.append(measure(name))
        jax.clear_caches()
        print(f"{name}: {'passes' if rows[-1]['ok'] else 'FAILS'}, {rows[-1]['seconds']} s", flush=True)
        record = {
            "date": datetime.date.today().isoformat(),
            "versions": {"python": platform.python_version(), "jax": jax.__version__},
            "device": jax.devices()[0].device_kind,
            "rows": rows,
        }
        (given.out / "propagation.json").write_text(json.dumps(record) + "\n")
        (given.out / "propagation.md").write_text(table(rows))


if __name__ == "__main__":
    main()
