"""The text of a plan for chips."""

from __future__ import annotations

import collections
from typing import Any

from resnet_jax.bench.table import JOINED, in_columns

MIB, GIB = 2**20, 2**30


def chips_table(result: dict[str, Any]) -> str:
    """Return the text of a :func:`resnet_jax.bench.chips.plan.plan_chips` result."""
    return in_columns(_lines(result))


def _lines(result: dict[str, Any]) -> str:
    what = "train step" if result["mode"] == "train" else "inference, batch norm folded"
    placed = f", the state sharded over {result['fsdp_devices'] or 'all'}" if result["placement"] == "fsdp" else ""
    lines = [
        f"{result['model']} on {result['chips']} ({result['count']} x {result['device_kind']}): {what}, "
        f"{result['batch_per_chip']} images a chip, {result['image_size']} px, {result['dtype']}{placed}",
        f"on the device: {_pipeline(result)}",
    ]
    if "program" not in result:
        return "\n".join([*lines, f"does NOT fit: {result['refused']}", *_largest(result), _compiled_by(result)])
    memory, room = result["memory"], result["memory_of_chip"]
    fits = "fits" if result["fits"] else "does NOT fit"
    lines += [
        f"{fits}: {memory['peak'] / GIB:.2f} of {room / GIB:.2f} GiB{_by_default(memory['peak'], result)}",
        "",
        "memory of a device, MiB",
        *(
            f"  {name:<14}{memory[name] / MIB:>12,.1f}"
            for name in ("arguments", "outputs", "aliased", "temporaries", "code")
        ),
        f"  arguments hold: {', '.join(f'{name} {size / MIB:,.1f}' for name, size in result['arguments'].items())}",
        *_largest(result),
        "",
        *_program(result["program"], result),
        "",
        *_bound(result),
        "",
        _compiled_by(result),
    ]
    return "\n".join(lines)


def _by_default(peak: int, result: dict[str, Any]) -> str:
    """Return whether a program fits in the GPU memory that JAX takes by default; empty for a TPU."""
    taken = result.get("memory_by_default")
    if taken is None:
        return ""
    if peak <= taken:
        return f"; and in the {taken / GIB:.2f} GiB that JAX takes by default"
    return f"; but not in the {taken / GIB:.2f} GiB that JAX takes by default: set XLA_CLIENT_MEM_FRACTION=.95"


def _pipeline(result: dict[str, Any]) -> str:
    if result["mode"] != "train":
        return "uint8 images are normalized"
    augment = ", ".join(result["augment"]) or "no augmentation"
    return f"uint8 images; {augment} (resizing on the host); normalized"


def _largest(result: dict[str, Any]) -> list[str]:
    largest = result.get("largest_batch")
    if largest is None:
        return []
    exact = "" if largest["exact"] else " (the search ended before a larger one was refused)"
    return [f"largest batch that fits: {largest['batch_per_chip']} a chip{exact}, {len(largest['tried'])} compilations"]


def _program(program: dict[str, Any], result: dict[str, Any]) -> list[str]:
    kinds = ", ".join(f"{count}{JOINED}{name}" for name, count in list(program["by_op"].items())[:6])
    lines = [
        f"kernels        {program['kernels']:,}: {kinds}",
        f"bytes moved    {program['bytes_moved'] / GIB:,.2f} GiB between memory and cores, on each device",
        f"arithmetic     {sum(program['operations'].values()) / 1e12:,.3f} TFLOP in convolutions and products: "
        + (", ".join(f"{_tera(count)} {dtype}" for dtype, count in program["operations"].items()) or "none"),
    ]
    unit = "the MXU" if program["platform"] == "tpu" else "cuDNN, cuBLAS or Triton"
    off = collections.Counter(each["target"] for each in program["convolutions_off_unit"])
    on = sum(program["convolutions"].values()) - sum(each["times"] for each in program["convolutions_off_unit"])
    others = ", ".join(f"{count} {name}" for name, count in off.items()) or "none"
    lines.append(f"convolutions   {on} by {unit}; others: {others}")
    lines.append(f"activations    {_moved(program)}")
    loops = {name: count for name, count in program["loops"].items() if count is None}
    if loops:
        lines.append(f"  {len(loops)} loops whose length the program does not say are counted once")
    if result["devices"] > 1:
        kinds = ", ".join(
            f"{each['count']} {kind} ({each['bytes'] / MIB:,.2f} MiB)" for kind, each in program["collectives"].items()
        )
        lines += [
            f"collectives    {kinds or 'none'}",
            f"  {program['serial_collectives']} wait for one another; during {program['blocking_collectives']} nothing "
            "else runs",
        ]
    return lines


def _tera(count: int) -> str:
    return f"{count / 1e12:,.3f}" if count >= 5e8 else "under 0.001"


def _moved(program: dict[str, Any]) -> str:
    found = program["activations_moved"]
    if not found:
        return "none is transposed or copied"
    said = []
    for what in ("transposed", "copied"):
        alone = [each for each in found if each["what"] == what and each["alone"]]
        within = [each for each in found if each["what"] == what and not each["alone"]]
        size = sum(each["times"] * each["bytes"] for each in alone) / MIB
        if alone:
            said.append(f"{sum(each['times'] for each in alone)} {what} by kernels of their own ({size:,.1f} MiB)")
        if within:
            said.append(f"{sum(each['times'] for each in within)} {what} as a convolution reads them")
    return ", ".join(said)


def _bound(result: dict[str, Any]) -> list[str]:
    bound = result["bound"]
    names = {
        "arithmetic": "arithmetic at the peak",
        "memory": "bytes at the memory's bandwidth",
        "kernels": "the longer of both, kernel by kernel",
        "launches": "between kernels",
        "links": "bytes over the links",
        "latency": "waits for other chips",
        "step": "one step at best",
    }
    cycles, rate = result["compiler"]["estimated_seconds"], bound["images_per_second"]
    return [
        "bound, ms (no forecast)",
        *(f"  {text:<38}{1e3 * bound[key]:>10,.3f}" for key, text in names.items() if bound[key] or key == "step"),
        f"at best {rate:,.0f} images/s, {rate / result['count']:,.0f} a chip"
        + (f"; the compiler itself reckons with {1e3 * cycles:,.2f} ms" if cycles else ""),
        result["note"],
        "assumed: " + "; ".join(result["assumptions"]),
    ]


def _compiled_by(result: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    effort = f", {result['effort']} effort" if result["effort"] != "full" else ", full effort"
    return f"compiled in {result['compile_seconds']:.1f} s by {versions}{effort}; nothing ran"
