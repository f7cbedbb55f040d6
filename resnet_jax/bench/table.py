"""Results as text."""

from __future__ import annotations

import textwrap
from typing import Any

from resnet_jax.bench.processor import processor_line

MIB = 2**20
#: Columns of the terminal that plans are formatted for, and a space at which lines are not broken.
WIDTH, JOINED = 100, "\N{NO-BREAK SPACE}"
NAMES = {
    "ours": "resnet_jax",
    "torch": "torch",
    "torch_compile": "torch.compile",
    "flax": "plain flax",
    "torch_frozen": "torch, frozen",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
}


def comparison_table(result: dict[str, Any]) -> str:
    """Return the text of a :func:`resnet_jax.bench.compare.compare` result."""
    side = result["image_size"]
    lines = [
        f"{result['model']} {result['mode']}, batch {result['batch']}, {side} px, {result['dtype']}, "
        f"{result['device']} ({result['cores']} cores), convolutions {result['convolutions']}",
        *([processor_line(result["processor"])] if result["platform"] == "cpu" else []),
        f"{'':<15}{'images/s':>12}{'slowest':>12}{'fastest':>12}{'ours over':>12}{'CPU ms/image':>14}",
    ]
    cpu = result["cpu_seconds_per_image"]
    for key, name in NAMES.items():
        if key not in ("ours", *result["rounds"], *result["not_run"]):
            continue
        if result[key] is None:
            lines.append(f"{name:<15}{'-':>12}  not run: {result['not_run'][key]}")
            continue
        rates = result["rounds"][key]
        spent = f"{1e3 * cpu[key]:,.1f}" if key in cpu else ""
        ratio = "" if key == "ours" else f"{result['ours'] / result[key]:.2f}"
        lines.append(f"{name:<15}{result[key]:>12,.1f}{min(rates):>12,.1f}{max(rates):>12,.1f}{ratio:>12}{spent:>14}")
    limits = result["limits"]["images_per_second"]
    nearer = min(limits, key=limits.__getitem__)
    lines += [
        f"limits: arithmetic {limits['arithmetic']:,.0f}, bandwidth {limits['bandwidth']:,.0f} images/s; "
        f"{result['limit_fraction']:.0%} of the nearer ({nearer})",
        f"compiled in {result['compile_seconds']:.1f} s after {result['trace_seconds']:.1f} s of tracing; "
        f"{result['temp_bytes'] / MIB:,.1f} MiB of temporaries",
    ]
    return "\n".join(lines)


def compile_table(result: dict[str, Any]) -> str:
    """Return the text of a :func:`resnet_jax.bench.cold.compile_models` result."""
    head = f"{'seconds':<24}{'trace':>9}{'compile':>9}{'ratio':>8}{'1st step cold':>15}{'warm':>8}{'temporaries':>16}"
    lines = [head]
    for row, ratio in zip(result["models"], result["compile_ratio"], strict=True):
        warm = "-" if row["warm_first_step_seconds"] is None else f"{row['warm_first_step_seconds']:.1f}"
        lines.append(
            f"{row['model']:<24}{row['trace_seconds']:>9.1f}{row['compile_seconds']:>9.1f}{ratio:>8.2f}"
            f"{row['cold_first_step_seconds']:>15.1f}{warm:>8}{row['temp_bytes'] / MIB:>12,.1f} MiB"
        )
    return "\n".join(lines)


def plan_table(result: dict[str, Any]) -> str:
    """Return the text of a :func:`resnet_jax.bench.plan.plan` result."""
    memory, split = result["memory"], result["split"]
    lines = [
        f"{result['model']}, batch {result['batch']} on {result['devices']} device{'s' * (result['devices'] > 1)}, "
        f"{result['image_size']} px, "
        f"{result['dtype']}{_placed(result)}",
        f"{result['params']:,} parameters, {result['batch_stats']:,} statistics, "
        f"{result['flops_per_step'] / 1e12:,.4g} TFLOP per train step",
        "",
        "memory of one device, MiB",
        *(f"  {name:<14}{size / MIB:>12,.1f}" for name, size in memory.items()),
        "of which",
        *(f"  {name.replace('_', ' '):<20}{size / MIB:>12,.1f}" for name, size in split.items()),
        "",
        f"collectives: {', '.join(f'{n} {name}' for name, n in result['collectives'].items()) or 'none'}",
        f"compiled in {result['compile_seconds']:.1f} s after {result['trace_seconds']:.1f} s of tracing, for fake "
        "CPU devices; nothing ran",
        result["note"],
    ]
    return in_columns("\n".join(lines))


def in_columns(text: str) -> str:
    """Return a text in lines of at most :data:`WIDTH` columns; continuation lines are indented like the table."""
    lines = []
    for line in text.splitlines():
        below = " " * (15 if line[:1].strip() and line[:15].endswith("  ") else 2)
        lines += textwrap.wrap(
            line, WIDTH, subsequent_indent=below, break_long_words=False, break_on_hyphens=False
        ) or [""]
    return "\n".join(lines).replace(JOINED, " ")


def _placed(result: dict[str, Any]) -> str:
    cut = f", the state sharded over {result['fsdp_devices']} devices" if result["placement"] == "fsdp" else ""
    return cut + (", plain forms" if result["forms"] == "plain" else "")
