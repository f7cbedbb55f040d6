"""Floating-point operations of convolutions and matrix products in a compiled program's text.

Two for each multiply-add with an existing element: padding and dilation are not counted, so the gradient of a strided
convolution, which a program may write as a dilated one, costs as much as the convolution.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from resnet_jax.bench.chips.hlo import Array, Computation, Instruction

_LABELS = re.compile(r"dim_labels=([0-9a-z]+)_([0-9a-z]+)->([0-9a-z]+)")
#: The notations of HLO and of the configuration of a custom call.
_CONTRACTED = re.compile(r'lhs_contracting_dims=\{([0-9,]*)\}|"lhs_contracting_dimensions":\[([0-9",]*)\]')
_WINDOW = re.compile(r"window=\{([^}]*)\}")


def operations(computation: Computation, instruction: Instruction) -> int:
    """Return the operations of a convolution or product; 0 for anything else."""
    operands = [computation.by_name[name].results for name in instruction.operands if name in computation.by_name]
    arrays = [results[0] for results in operands if results]
    if len(arrays) < 2 or not instruction.results:
        return 0
    if instruction.op == "convolution" or "$conv" in instruction.target:
        return _convolution(instruction, arrays)
    if instruction.op == "dot" or "cublas" in instruction.target:
        return _product(instruction.results[0], arrays[0], instruction.attributes)
    return 0


def _convolution(instruction: Instruction, arrays: Sequence[Array]) -> int:
    labels = _LABELS.search(instruction.attributes)
    if labels is None:
        return 0
    image, kernel, output = arrays[0], arrays[1], instruction.results[0]
    # cuDNN's gradients have the window and the labels of the convolution that they are the gradients of
    if "BackwardFilter" in instruction.target:
        image, kernel, output = arrays[0], instruction.results[0], arrays[1]
    elif "BackwardInput" in instruction.target:
        image, kernel, output = instruction.results[0], arrays[1], arrays[0]
    of_image, of_kernel, of_output = labels.groups()
    window = _window(instruction.attributes)
    total = 2
    for label, size in zip(of_output, output.dims, strict=True):
        if not label.isdigit():
            total *= size
            continue
        axis = int(label)
        total *= _pairs(
            image.dims[of_image.index(label)],
            kernel.dims[of_kernel.index(label)],
            size,
            **{name: values[axis] for name, values in window.items() if axis < len(values)},
        )
    return total * kernel.dims[of_kernel.index("i")]


def _window(attributes: str) -> dict[str, list[int]]:
    """Return stride, low padding and dilations for each spatial dimension, where they are not the default."""
    found = _WINDOW.search(attributes)
    window: dict[str, list[int]] = {}
    for name, text in re.findall(r"(\w+)=(\S+)", found[1] if found else ""):
        if name in ("stride", "lhs_dilate", "rhs_dilate"):
            window[name] = [int(value) for value in text.split("x")]
        elif name == "pad":
            window[name] = [int(value.split("_")[0]) for value in text.split("x")]
    return window


def _pairs(
    image: int, kernel: int, output: int, stride: int = 1, pad: int = 0, lhs_dilate: int = 1, rhs_dilate: int = 1
) -> int:
    """Return how many (output, kernel) positions of one dimension meet an element of the image.

    >>> _pairs(4, 3, 4, pad=1), _pairs(4, 3, 2, stride=2, pad=1), _pairs(2, 3, 4, pad=1, lhs_dilate=2)
    (10, 5, 5)
    """
    count = 0
    for k in range(kernel):
        for o in range(output):
            place = o * stride + k * rhs_dilate - pad
            count += place >= 0 and place % lhs_dilate == 0 and place // lhs_dilate < image
    return count


def _product(output: Array, left: Array, attributes: str) -> int:
    found = _CONTRACTED.search(attributes)
    axes = [int(axis) for axis in re.findall(r"\d+", found[0])] if found else []
    return 2 * output.elements * math.prod(left.dims[axis] for axis in axes)
