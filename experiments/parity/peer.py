"""The reference: a PyTorch network with random weights, and its logits, gradients and statistics in one file.

It runs in the peer's environment and imports nothing of ours; ``compare.py`` calls it:

    PEER_PYTHON peer.py CASE OUT.safetensors [--checkout NAME=FOLDER ...]

Every parameter and statistic is drawn at random, away from a network's initial values, so that a wrong sign, a swapped
pair of tensors or a zero-initialized branch shows. The running statistics are those of a random batch, perturbed, so
that eval mode stays in range. Names in the file:

| name | what |
|---|---|
| ``images``, ``labels`` | the batch, (N, 3, H, W) |
| ``state/NAME`` | the state dict before the step, float32 |
| ``count/NAME`` | values that each batch norm averages per channel |
| ``DTYPE/MODE/logits`` | float32 or float64, eval or train |
| ``DTYPE/MODE/grad/NAME`` | gradient of the mean cross-entropy |
| ``DTYPE/train/stats/NAME`` | running statistics after the train-mode forward pass |
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import CASES, CLASSES, Case
from safetensors.torch import save_file
from torch import nn

Checkouts = dict[str, Path]


def _transformers(build: dict[str, Any], _: Checkouts) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    class Logits(ResNetForImageClassification):
        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:  # pyright: ignore
            return super().forward(pixel_values).logits

    return Logits(ResNetConfig(**build, num_labels=CLASSES))


def _torchvision(build: dict[str, Any], _: Checkouts) -> nn.Module:
    from torchvision.models import resnet

    if len(build) == 1:
        return getattr(resnet, build["name"])(weights=None, num_classes=CLASSES)
    rest = {key: value for key, value in build.items() if key != "name"}
    return resnet.ResNet(resnet.Bottleneck, [1, 2, 1, 1], num_classes=CLASSES, **rest)


def _timm(build: dict[str, Any], _: Checkouts) -> nn.Module:
    import timm

    rest = {key: value for key, value in build.items() if key != "name"}
    if build["name"].endswith("_bit"):  # its registered builders fix the depth
        return timm.models.resnetv2._create_resnetv2_bit(build["name"], num_classes=CLASSES, **rest)
    return timm.create_model(build["name"], num_classes=CLASSES, **rest)


def _pytorchcv(build: dict[str, Any], _: Checkouts) -> nn.Module:
    rest = {key: value for key, value in build.items() if key != "name"}
    if rest:
        file, _, name = build["name"].partition(".")
        return getattr(importlib.import_module(f"pytorchcv.models.{file}"), name)(**rest, num_classes=CLASSES)
    from pytorchcv.model_provider import get_model

    return get_model(build["name"])


def _akamaster(build: dict[str, Any], checkouts: Checkouts) -> nn.Module:
    return getattr(_module(checkouts, "akamaster", "resnet.py"), build["name"])()


def _fixup(build: dict[str, Any], checkouts: Checkouts) -> nn.Module:
    kind, _, name = build["name"].partition(".")
    module = _module(checkouts, "fixup", f"{kind}/models/fixup_resnet_{kind}.py")
    return getattr(module, name)(num_classes=CLASSES)


def _module(checkouts: Checkouts, checkout: str, file: str) -> Any:
    """Load one file of a checked-out repository."""
    if checkout not in checkouts:
        raise SystemExit(f"this case needs --checkout {checkout}=FOLDER")
    spec = importlib.util.spec_from_file_location("checkout", checkouts[checkout] / file)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{checkouts[checkout] / file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILDERS: dict[str, Callable[[dict[str, Any], Checkouts], nn.Module]] = {
    "transformers": _transformers,
    "torchvision": _torchvision,
    "timm": _timm,
    "pytorchcv": _pytorchcv,
    "akamaster": _akamaster,
    "fixup": _fixup,
}


def _declare_missing_operators() -> None:
    """Let torchvision be imported where its compiled operators (of detection nets) do not load: CPU torch."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declare_missing_operators.kept = library  # pyright: ignore[reportFunctionMemberAccess]  (it ends with its object)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether ``module`` has running statistics (timm's norms with an activation are subclasses)."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def randomize(model: nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter: kernels that keep the signal's size, gains around but not at 1, biases around 0."""

    def uniform(tensor: torch.Tensor) -> torch.Tensor:
        return torch.rand(tensor.shape, generator=generator) + 0.5

    def normal(tensor: torch.Tensor, std: float) -> torch.Tensor:
        return std * torch.randn(tensor.shape, generator=generator)

    parameters = dict(model.named_parameters())
    blocks = max(sum(name.endswith(".scale") for name in parameters), 1)
    quiet = branch_ends(list(parameters))
    with torch.no_grad():
        for name, p in parameters.items():
            leaf = name.rpartition(".")[2]
            if p.ndim > 1 and leaf != "gain":
                gain = 1.0 if p.ndim == 2 else 2.0
                p.copy_(normal(p, (gain / p[0].numel()) ** 0.5))
            elif leaf == "scale":  # Fixup: no norm behind it, so that many branches must not add up
                p.copy_(uniform(p) * blocks**-0.5)
            elif leaf in ("weight", "gain", "skipinit_gain"):
                p.copy_(uniform(p) * (0.3 if name in quiet else 1.0))
            else:
                p.copy_(normal(p, 0.1))


def branch_ends(names: list[str]) -> set[str]:
    """Return the scales of each branch's last norm: small ones keep 50 random layers from magnifying rounding."""
    pattern = re.compile(r"(.+(?:bn|norm|layer\.|body\.conv))(\d)(?:\.bn|\.normalization)?\.weight")
    last: dict[str, tuple[str, str]] = {}
    for name in names:
        if match := pattern.fullmatch(name):
            last[match[1]] = max(last.get(match[1], ("", "")), (match[2], name))
    return {name for _, name in last.values()}


def calibrate(model: nn.Module, images: torch.Tensor, generator: torch.Generator) -> dict[str, int]:
    """Set the running statistics to those of ``images``, disturbed; return how many values each norm averages."""
    norms = {name: module for name, module in model.named_modules() if is_batch_norm(module)}
    counts: dict[str, int] = {}
    momenta = {name: module.momentum for name, module in norms.items()}

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            counts[name] = inputs[0].numel() // inputs[0].shape[1]

        return hook

    handles = [module.register_forward_pre_hook(record(name)) for name, module in norms.items()]
    for module in norms.values():
        module.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(images)
        for name, module in norms.items():
            module.momentum = momenta[name]
            mean, var = module.running_mean, module.running_var
            mean.add_(0.1 * var.sqrt() * torch.randn(mean.shape, generator=generator))
            var.mul_(0.8 + 0.4 * torch.rand(var.shape, generator=generator))
    for handle in handles:
        handle.remove()
    return counts


def measure(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, out: dict[str, torch.Tensor]) -> None:
    """Add logits and gradients in both modes and the moved statistics of ``model`` to ``out``."""
    dtype = str(images.dtype).removeprefix("torch.")
    for mode in ("eval", "train"):
        model.train(mode == "train").zero_grad()
        logits = model(images)
        nn.functional.cross_entropy(logits, labels).backward()
        out[f"{dtype}/{mode}/logits"] = logits.detach()
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            out[f"{dtype}/{mode}/grad/{name}"] = p.grad.detach().clone()
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            out[f"{dtype}/train/stats/{name}"] = buffer.detach().clone()


def reference(case: Case, checkouts: Checkouts, seed: int) -> dict[str, torch.Tensor]:
    """Return everything about one case; see the module's table."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = BUILDERS[case.peer](case.build, checkouts)
    randomize(model, generator)
    images = torch.randn((case.batch, 3, case.image_size, case.image_size), generator=generator)
    labels = torch.arange(case.batch) % CLASSES
    counts = calibrate(model, torch.randn(images.shape, generator=generator), generator)
    out = {"images": images, "labels": labels}
    out |= {f"count/{name}": torch.tensor(count) for name, count in counts.items()}
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            out[f"state/{name}"] = tensor.detach().clone()
    wide = copy.deepcopy(model).double()
    measure(model, images, labels, out)
    measure(wide, images.double(), labels, out)
    return {name: tensor.contiguous() for name, tensor in out.items()}


def own_rounding(tensors: dict[str, torch.Tensor]) -> float:
    """Return the largest relative difference between the peer's float32 and its float64 gradients."""
    return max(
        float((tensor - tensors[name.replace("float32", "float64", 1)]).norm() / tensor.norm())
        for name, tensor in tensors.items()
        if name.startswith("float32/") and "/grad/" in name
    )


def well_conditioned(case: Case, checkouts: Checkouts, seeds: int) -> tuple[dict[str, torch.Tensor], int, float]:
    """Return the reference of the first seed whose own rounding is far below the bar; else that of the best seed.

    Where one pre-activation of half a million lies within rounding of 0, ReLU's slope flips between 0 and 1 and the
    gradient moves by about the bar, between any two float32 programs. The peer alone decides about the seed.

    Returns:
        The tensors, the seed and the peer's own rounding.
    """
    _declare_missing_operators()
    best: tuple[dict[str, torch.Tensor], int, float] | None = None
    for seed in range(seeds):
        tensors = reference(case, checkouts, seed)
        rounding = own_rounding(tensors)
        if best is None or rounding < best[2]:
            best = tensors, seed, rounding
        if rounding < 1e-4:
            break
    assert best is not None
    return best


def versions(peer: str) -> dict[str, str]:
    """Return the versions that made the reference."""
    from importlib import metadata

    package = peer if peer in ("transformers", "torchvision", "timm", "pytorchcv") else None
    found = {"torch": torch.__version__}
    return found | ({package: metadata.version(package)} if package else {})


def main() -> None:
    """Write the file of one case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkout", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--float32-only", action="store_true", help="leave float64 out of the file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=4, help="how many may be tried")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    checkouts = {name: Path(folder) for name, _, folder in (item.partition("=") for item in options.checkout)}
    case = CASES[options.case]
    tensors, seed, rounding = well_conditioned(case, checkouts, options.seeds)
    if options.float32_only:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("float64/")}
    about = {"seed": str(seed), "own_rounding": str(rounding)}
    save_file(tensors, options.out, metadata={"versions": json.dumps(versions(case.peer)), **about})


if __name__ == "__main__":
    main()
