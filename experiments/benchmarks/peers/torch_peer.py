"""The PyTorch side of ``resnet-jax bench``: the same network, channels_last, eager or through ``torch.compile``.

It imports nothing of this project; ``resnet_jax/bench/serve.py`` loads and times it in an interpreter that has torch.
Training uses ``SGD(momentum=0.9, weight_decay=1e-4)``, ``cross_entropy`` and batch norm in train mode; with bfloat16,
the forward pass and the loss run under autocast. Inference uses evaluation mode with batch norm folded by
``fuse_conv_bn_eval`` under ``inference_mode``, with bfloat16 for the whole network. With ``freezing``, Inductor may
treat the parameters as constants, so it can lay the kernels out once and fuse what follows a convolution. float32 keeps
PyTorch's defaults (on a GPU: TF32 in convolutions, as in XLA).
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Units(nn.Module):
    """Convolutions, each with its batch norm; ReLU between them."""

    def __init__(self, inputs: int, rows: list[tuple[int, int, int]]):
        """Take (features, window, stride) of each."""
        super().__init__()
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for features, window, stride in rows:
            self.convs.append(nn.Conv2d(inputs, features, window, stride, (window - 1) // 2, bias=False))
            self.norms.append(nn.BatchNorm2d(features))
            inputs = features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last norm's output, without ReLU."""
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms)):  # noqa: B905  (Dynamo)
            x = F.relu(x, inplace=True) if index else x
            x = norm(conv(x))
        return x

    def fold(self) -> None:
        """Fold each norm into its convolution."""
        for index in range(len(self.convs)):
            self.convs[index] = fuse_conv_bn_eval(self.convs[index], self.norms[index])
            self.norms[index] = nn.Identity()


class Block(nn.Module):
    """A basic block or a bottleneck."""

    def __init__(self, network: dict[str, Any], inputs: int, width: int, stride: int):
        """Build the branch and the shortcut."""
        super().__init__()
        bottleneck = network["block"] == "bottleneck"
        self.features, self.stride, self.inputs = width * (4 if bottleneck else 1), stride, inputs
        if bottleneck:
            first, second = (stride, 1) if network["stride_in"] == "1x1" else (1, stride)
            rows = [(width, 1, first), (width, 3, second), (self.features, 1, 1)]
        else:
            rows = [(self.features, 3, stride), (self.features, 3, 1)]
        self.branch = Units(inputs, rows)
        self.changes = stride != 1 or inputs != self.features
        projects = self.changes and network["shortcut"] == "B"
        self.projection = Units(inputs, [(self.features, 1, stride)]) if projects else None
        more = self.features - inputs
        before = more // 2 if network["shortcut"] == "A" else 0
        self.padding = (0, 0, 0, 0, before, more - before)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``relu(shortcut + branch)``."""
        y = self.branch(x)
        if self.projection is not None:
            x = self.projection(x)
        elif self.changes:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], self.padding)
        return F.relu(y + x, inplace=True)


class ResNet(nn.Module):
    """A residual network; ``network`` is what ``resnet-jax bench`` sends."""

    def __init__(self, network: dict[str, Any]):
        """Build it."""
        super().__init__()
        width = network["widths"][0]
        self.pools = network["stem"] != "cifar"
        self.stem = Units(network["in_channels"], [(width, 7, 2) if self.pools else (width, 3, 1)])
        blocks, inputs = [], width
        for stage, (size, width) in enumerate(zip(network["stage_sizes"], network["widths"], strict=True)):
            for index in range(size):
                blocks.append(Block(network, inputs, width, 2 if stage > 0 and index == 0 else 1))
                inputs = blocks[-1].features
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, network["num_classes"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = F.relu(self.stem(x), inplace=True)
        if self.pools:
            x = F.max_pool2d(x, 3, 2, 1)
        return self.head(self.blocks(x).mean((2, 3)))


class Peer:
    """The step."""

    def __init__(self, spec: dict[str, Any]):
        """Build the network on its device; compilation happens at the first step."""
        self.device = torch.device("cuda" if spec["device"] == "gpu" else "cpu")
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("this PyTorch sees no GPU")
        torch.manual_seed(0)
        model = ResNet(spec["network"])
        params = sum(parameter.numel() for parameter in model.parameters())
        side, channels = spec["image_size"], spec["network"]["in_channels"]
        images = torch.randn(spec["batch"], channels, side, side)
        labels = torch.randint(0, spec["network"]["num_classes"], (spec["batch"],))
        self._half = spec["dtype"] == "bfloat16"
        if spec["mode"] == "infer":
            model.eval()
            for module in model.modules():
                if isinstance(module, Units):
                    module.fold()
            if self._half:
                model, images = model.to(torch.bfloat16), images.to(torch.bfloat16)
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.input = images.to(self.device, memory_format=torch.channels_last)
        self.labels = labels.to(self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
        run = self._train if spec["mode"] == "train" else self._infer
        self._apply = self.model
        if spec.get("freezing"):
            from torch._inductor import config

            config.freezing = True
        if spec["compile"]:
            self._apply = torch.compile(self.model, mode=spec.get("compile_mode") or "default")
        began = time.perf_counter()
        run()
        self.wait()
        self._run = run
        self.images = spec["batch"]
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        self.facts = {
            "params": params,
            "device": name,
            "threads": torch.get_num_threads(),
            "compile_seconds": time.perf_counter() - began,
            "versions": {"torch": torch.__version__},
        }

    def dispatch(self) -> None:
        """Send one step."""
        self._run()

    def wait(self) -> None:
        """Wait until all is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _train(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            loss = F.cross_entropy(self._apply(self.input), self.labels)
        loss.backward()
        self.optimizer.step()

    def _infer(self) -> None:
        with torch.inference_mode():
            self._apply(self.input)


def prepare(spec: dict[str, Any]) -> Peer:
    """Build the side."""
    return Peer(spec)
