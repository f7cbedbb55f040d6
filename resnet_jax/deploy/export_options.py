"""Options of an export, read without JAX; `export` acts on them."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1, Positive, check_fields

FormatChoice: TypeAlias = Literal["onnx", "jax", "saved", "safetensors"]


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """How a network is exported."""

    format: FormatChoice = "onnx"
    """onnx; jax (StableHLO for CPU, CUDA and TPU with the weights, a zip file); saved (a TensorFlow SavedModel, or
    LiteRT where the file ends with .tflite); or safetensors (the weights alone)."""
    fold: bool = True
    """Fold batch norm into the convolutions before it: the same function, computed faster. Not of safetensors."""
    pixels: bool = False
    """The graph takes stored values, such as uint8 pixels (N, height, width, channels), and normalizes them itself;
    else normalized float32: of onnx (N, channels, height, width), else channels last."""
    any_size: bool = False
    """onnx: the graph takes inputs of other sides too; not of networks that find boxes."""
    batch: AtLeast1 | None = None
    """Examples of a batch; None leaves it open."""
    this_machine: bool = False
    """jax: call the code that is compiled for this machine's processor, as the run does: about as fast as the run, but
    only on such a processor and with this package; needs batch."""
    names: str = "ours"
    """safetensors: whose names the tensors have: ours, or torchvision, timm, cifar, transformers, pytorchcv, fixup."""
    licence: str = ""
    """Of the weights, as you state it; it is kept in the file."""
    tolerance: Positive = 1e-5
    """Largest difference of an output that is allowed, as a share of the largest output."""

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and what a format does not use."""
        check_fields(self)
        used = {"names": ("safetensors",), "any_size": ("onnx",), "this_machine": ("jax",)}
        if self.format == "safetensors":
            used |= dict.fromkeys(("fold", "pixels", "batch", "tolerance"), ("onnx", "jax", "saved"))
        for field, formats in used.items():
            if self.format not in formats and getattr(self, field) != getattr(ExportConfig, field):
                raise UsageError(f"{field} is not used by format {self.format}, but by {', '.join(formats)}")
        if self.this_machine and self.batch is None:
            raise UsageError("this_machine needs batch: the code compiled here is called for batches of one size")
