"""The PyTorch side of ``speed_cpu.py``: the same network, data, augmentation, optimizer and time, written out.

    PYTHON_WITH_TORCH torch_speed_peer.py SPEC.json DATA.npz RESULT.json

It imports nothing of this project. The network is that of rows such as ``airbench96_cifar``: a frozen whitening
convolution, then stages of convolution, max pool, batch norm, activation and residual blocks, in channels_last. With
``compile`` in the specification it runs through ``torch.compile``, compiled before the clock starts.

Two things differ necessarily: PyTorch's running variance is the unbiased one, and orders and crops are drawn by another
generator. Kernels start from the same distributions.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs: int, features: int) -> nn.Conv2d:
    """Return a 3x3 convolution whose first filters pass their inputs on."""
    layer = nn.Conv2d(inputs, features, 3, padding=1, bias=False)
    torch.nn.init.dirac_(layer.weight.data[:inputs])
    return layer


class Stage(nn.Module):
    """Convolution, maximum, norm and activation, then residual blocks."""

    def __init__(self, inputs: int, features: int, blocks: int, spec: dict[str, Any]):
        super().__init__()

        def norm() -> nn.BatchNorm2d:
            layer = nn.BatchNorm2d(features, eps=spec["norm_eps"], momentum=1 - spec["norm_momentum"])
            layer.weight.requires_grad = False
            return layer

        self.act = ACTIVATIONS[spec["activation"]]
        self.first, self.norm = conv(inputs, features), norm()
        count = blocks * (1 if spec["block"] == "single" else 2)
        self.convs = nn.ModuleList(conv(features, features) for _ in range(count))
        self.norms = nn.ModuleList(norm() for _ in range(count))
        self.per_block, self.skips = count // blocks, spec["shortcut"] != "none"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm(F.max_pool2d(self.first(x), 2)))
        skip = x
        for index, (layer, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(layer(x))
            if index % self.per_block == self.per_block - 1:
                x = skip = self.act(x + skip if self.skips else x)
            else:
                x = self.act(x)
        return x


class Net(nn.Module):
    """The network; the classifier's outputs are scaled."""

    def __init__(self, spec: dict[str, Any], kernel: torch.Tensor):
        super().__init__()
        filters, channels, window, _ = kernel.shape
        self.whiten = nn.Conv2d(channels, filters, window, bias=True)
        self.whiten.weight.data, self.whiten.weight.requires_grad = kernel, False
        nn.init.zeros_(self.whiten.bias)
        self.act, self.scale = ACTIVATIONS[spec["activation"]], spec["logit_scale"]
        stages, inputs = [], filters
        for width, blocks in zip(spec["widths"], spec["stage_sizes"], strict=True):
            stages.append(Stage(inputs, width, blocks, spec))
            inputs = width
        self.stages, self.head = nn.Sequential(*stages), nn.Linear(inputs, spec["num_classes"])
        nn.init.uniform_(self.head.weight, -(inputs**-0.5), inputs**-0.5)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stages(self.act(self.whiten(x)))
        return self.head(x.amax((2, 3))) * self.scale


ACTIVATIONS = {"relu": F.relu, "gelu": lambda x: F.gelu(x, approximate="tanh"), "gelu_erf": F.gelu}


class Data:
    """Training images in another order every epoch, cropped from a reflected border, mirrored in every other epoch."""

    def __init__(self, arrays: Any, spec: dict[str, Any]):
        self.images = torch.from_numpy(arrays["train_images"]).permute(0, 3, 1, 2)
        self.labels = torch.from_numpy(arrays["train_labels"])
        self.first = torch.from_numpy(arrays["mirrored_first"])
        self.mean, self.std = (torch.from_numpy(arrays[name]).float().view(1, -1, 1, 1) for name in ("mean", "std"))
        self.batch, self.pad, self.flip = spec["batch_size"], spec["pad"], spec["flip"]
        self.epoch, self.at, self.order = -1, 0, torch.empty(0, dtype=torch.long)

    def normalized(self, images: torch.Tensor) -> torch.Tensor:
        return ((images.float() / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self.at + self.batch > len(self.order):
            self.epoch, self.at, self.order = self.epoch + 1, 0, torch.randperm(len(self.labels))
        rows = self.order[self.at : self.at + self.batch]
        self.at += self.batch
        images = self.images[rows]
        if self.pad:
            side, count = images.shape[-1], len(rows)
            padded = F.pad(images.float(), (self.pad,) * 4, mode="reflect").to(torch.uint8)
            start = torch.randint(0, 2 * self.pad + 1, (2, count, 1))
            down, right = (start[i] + torch.arange(side) for i in (0, 1))
            images = padded[torch.arange(count).view(-1, 1, 1, 1), torch.arange(images.shape[1]).view(1, -1, 1, 1),
                            down.view(count, 1, side, 1), right.view(count, 1, 1, side)]  # fmt: skip
        if self.flip == "alternating":
            mirrored = self.first[rows] ^ bool(self.epoch % 2)
        else:
            mirrored = torch.rand(len(rows)) < (0.5 if self.flip == "random" else 0.0)
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
        return self.normalized(images), self.labels[rows]


class Training:
    """SGD with Nesterov's momentum, one cycle of the rate, and lookahead."""

    def __init__(self, spec: dict[str, Any], arrays: Any):
        torch.manual_seed(spec["seed"])
        self.spec, self.arrays = spec, arrays
        kernel = torch.from_numpy(arrays["whitening"]).permute(3, 2, 0, 1).contiguous()
        self.net = Net(spec, kernel).to(memory_format=torch.channels_last)
        self.call = torch.compile(self.net) if spec["compile"] else self.net
        self.start = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.begin()

    def begin(self) -> None:
        """Start anew with the first parameters, a new optimizer and new data; what was compiled stays."""
        spec = self.spec
        self.net.load_state_dict(self.start)
        self.net.train()
        self.data = Data(self.arrays, spec)
        named = [(name, p) for name, p in self.net.named_parameters() if p.requires_grad]
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, p in named:
            rate = spec["norm_bias_rate"] if "norm" in name else 1.0
            groups.setdefault((rate, spec["weight_decay"] if p.ndim > 1 else 0.0), []).append(p)
        self.rates = [rate for rate, _ in groups]
        self.optimizer = torch.optim.SGD(
            [{"params": params, "weight_decay": decay} for (_, decay), params in groups.items()],
            lr=1.0, momentum=spec["momentum"], nesterov=True,
        )  # fmt: skip
        self.slow = [p.detach().clone() for _, p in named]
        self.fast = [p for _, p in named]

    def rate(self, step: int, total: int) -> float:
        """Return the factor of the rate: up from 1 / div, down to 1 / (div final_div), straight."""
        div, final = self.spec["div_factor"], self.spec["final_div_factor"]
        turn = max(math.floor(self.spec["peak"] * total + 0.5) - 1, 0)
        if step <= turn:
            return 1 / div + (1 - 1 / div) * (step / turn if turn else 1.0)
        low = 1 / (div * final)
        return low + (1 - low) * (total - 1 - step) / (total - 1 - turn)

    def step(self, step: int, total: int) -> None:
        for factor, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            group["lr"] = self.spec["learning_rate"] * factor * self.rate(step, total)
        images, labels = self.data.next()
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.call(images), labels, label_smoothing=self.spec["label_smoothing"])
        loss.backward()
        self.optimizer.step()
        every, made = self.spec["lookahead_every"], step + 1
        if every and (made % every == 0 or made == total):
            alpha = 1 - (1 - self.spec["lookahead_alpha"]) * (made / total) ** self.spec["lookahead_power"]
            with torch.no_grad():
                for slow, fast in zip(self.slow, self.fast, strict=True):
                    slow.lerp_(fast, alpha)
                    fast.copy_(slow)


def accuracy(training: Training, arrays: Any) -> dict[str, float]:
    """Return the accuracy on the test images as they are, and over their views."""
    net, right = training.net.eval(), {"plain": 0, "views": 0}
    images = torch.from_numpy(arrays["test_images"]).permute(0, 3, 1, 2)
    labels = torch.from_numpy(arrays["test_labels"])
    with torch.inference_mode():
        for part, answers in zip(images.split(500), labels.split(500), strict=True):
            moved = F.pad(part.float(), (1,) * 4, mode="reflect")
            shown = [part, part, moved[:, :, 2:, 2:], moved[:, :, :-2, :-2]]
            views = [view for each in shown for view in (each, each.flip(-1))]
            found = [net(training.data.normalized(view)).softmax(-1) for view in views]
            right["plain"] += int((found[0].argmax(-1) == answers).sum())
            right["views"] += int((torch.stack(found).mean(0).argmax(-1) == answers).sum())
    return {name: count / len(labels) for name, count in right.items()}


def main() -> None:
    """Measure the speed, train until the clock says stop, evaluate."""
    spec_file, data_file, result_file = sys.argv[1:]
    with open(spec_file, encoding="utf-8") as file:
        spec = json.load(file)
    torch.set_num_threads(spec["threads"])
    arrays = np.load(data_file)
    training = Training(spec, arrays)
    began = time.perf_counter()
    training.step(0, 1000)
    compiled = time.perf_counter() - began
    speed, total = None, spec["steps"]
    if total is None:
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < spec["measure_seconds"]:
            training.step(steps, 1000)
            steps += 1
        speed = steps * spec["batch_size"] / (time.perf_counter() - began)
        total = max(1, int(spec["margin"] * speed * spec["seconds"] / spec["batch_size"]))
    training.begin()
    began, made = time.perf_counter(), 0
    while made < total and (spec["steps"] is not None or time.perf_counter() - began < spec["seconds"]):
        training.step(made, total)
        made += 1
    seconds = time.perf_counter() - began
    result = {
        "measured_images_per_second": speed, "planned_steps": total, "steps": made, "seconds": seconds,
        "images": made * spec["batch_size"], "images_per_second": made * spec["batch_size"] / seconds,
        "first_step_seconds": compiled, "accuracy": accuracy(training, arrays), "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in training.net.parameters()),
        "versions": {"torch": torch.__version__}, "compiled": spec["compile"],
    }  # fmt: skip
    with open(result_file, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=2)


if __name__ == "__main__":
    main()
