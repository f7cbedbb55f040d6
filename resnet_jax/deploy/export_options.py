"""Options of an export, readable without JAX; `export` applies them."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1, Positive, check_fields

FormatChoice: TypeAlias = Literal["onnx", "jax", "saved", "safetensors"]


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """How to export a network."""

    format: FormatChoice = "onnx"
    """File format: onnx, jax (a zip file with the weights and StableHLO for CPU, CUDA and TPU), saved (a TensorFlow
    SavedModel, or LiteRT if the file ends with .tflite) or safetensors (weights only)."""
    fold: bool = True
    """Fold batch norms into the preceding convolutions: the same function, computed faster. Not for safetensors."""
    pixels: bool = False
    """Let the graph take stored values, such as uint8 pixels (N, height, width, channels), and normalize them itself.
    Otherwise it takes normalized float32: (N, channels, height, width) for onnx, channels last for the other
    formats."""
    any_size: bool = False
    """Let an onnx graph accept inputs of other sizes. Not for networks that detect boxes."""
    batch: AtLeast1 | None = None
    """Fixed batch size of the exported graph. None: any batch size."""
    this_machine: bool = False
    """Let a jax export call the code compiled for this machine's processor. It is then about as fast as the run, but
    works only on such a processor and with this package installed. Requires batch."""
    names: str = "ours"
    """Naming scheme of the tensors in safetensors: ours, torchvision, timm, cifar, transformers, pytorchcv or fixup."""
    licence: str = ""
    """License of the weights, as you state it. It is stored in the file."""
    tolerance: Positive = 1e-5
    """Largest allowed difference of an output from the network's, relative to the largest output."""

    def __post_init__(self) -> None:
        """Reject numbers out of range and options that the format does not use."""
        check_fields(self)
        used = {"names": ("safetensors",), "any_size": ("onnx",), "this_machine": ("jax",)}
        if self.format == "safetensors":
            used |= dict.fromkeys(("fold", "pixels", "batch", "tolerance"), ("onnx", "jax", "saved"))
        for field, formats in used.items():
            if self.format not in formats and getattr(self, field) != getattr(ExportConfig, field):
                raise UsageError(f"{field} is not used by format {self.format}, but by {', '.join(formats)}")
        if self.this_machine and self.batch is None:
            raise UsageError("this_machine needs batch: the code compiled here is called for batches of one size")
