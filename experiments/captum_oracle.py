"""Write ``tests/deploy/explain/captum.npz``: maps by Captum 0.9 and pytorch-grad-cam that our tests compare with.

    PYTHON_WITH_TORCH_CAPTUM_AND_GRAD_CAM experiments/captum_oracle.py FOLDER_OF_PYTORCH_CIFAR_RESNETS

It takes a minute on one CPU core (PyTorch 2.15, captum 0.9.0, grad-cam). It imports nothing of ours, and the tests do
not import it. The images are smooth random ones. Both networks are the CIFAR ResNet with shortcut A: that of the
pretrained weights (resnet20-12fca82f.th), and a small one with random weights, which are in the file.

| name | what |
|---|---|
| ``NET/images`` | (N, side, side, 3) float32, as the network takes them: ``tiny`` and ``resnet20`` |
| ``NET/targets`` | int64 (N,) classes |
| ``NET/logits`` | (N, classes) |
| ``tiny/weights/NAME`` | its state dict |
| ``NET/grad_cam/LAYER`` | LayerGradCam with relu_attributions, (N, h, w), of stage2 and stage3 |
| ``NET/grad_cam_pp/LAYER`` | the weighted sum after ReLU with GradCAMPlusPlus's weights, (N, h, w) |
| ``NET/integrated_gradients``, ``NET/delta`` | 64 steps, gausslegendre, baseline 0: (N, side, side, 3), (N,) |
| ``NET/float64/middle`` | the same in float64 with riemann_middle, whose weights are exact: float64 |
| ``NET/float64/gausslegendre`` | the same in float64 (with weights that Captum rounds to float32), kept as float32 |
| ``NET/occlusion`` | windows of a quarter of the side, at strides of an eighth, baseline 0: (N, side, side) |
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, LayerGradCam, Occlusion
from pytorch_grad_cam import GradCAMPlusPlus
from torch import nn

OUT = Path(__file__).resolve().parents[1] / "tests/deploy/explain/captum.npz"
STEPS = 64


class Block(nn.Module):
    """Two 3x3 convolutions and shortcut A: every second position, zero channels on both sides."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.pad = stride, (width - inputs) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        skip = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + skip)


class Net(nn.Module):
    """The CIFAR ResNet with n blocks in each of three stages."""

    def __init__(self, n: int, width: int, classes: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        widths = (width, width, 2 * width, 4 * width)
        for stage in (1, 2, 3):
            first = Block(widths[stage - 1], widths[stage], 1 if stage == 1 else 2)
            rest = [Block(widths[stage], widths[stage], 1) for _ in range(n - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def smooth_images(count: int, side: int) -> torch.Tensor:
    """Return normal noise of a quarter of the side, interpolated."""
    coarse = torch.randn(count, 3, side // 4, side // 4)
    return F.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False) * 1.5


def explained(net: Net, images: torch.Tensor) -> dict[str, np.ndarray]:
    """Return everything of one network."""
    net.eval()
    with torch.no_grad():
        logits = net(images)
    targets = logits.argmax(1)
    side = images.shape[-1]
    found: dict[str, torch.Tensor | np.ndarray] = {
        "images": images.permute(0, 2, 3, 1), "targets": targets, "logits": logits,
    }  # fmt: skip
    for stage in (2, 3):
        layer = getattr(net, f"layer{stage}")
        cam = LayerGradCam(net, layer).attribute(images, targets, relu_attributions=True)
        found[f"grad_cam/stage{stage}"] = cam[:, 0]
        values: list[torch.Tensor] = []
        hook = layer.register_forward_hook(lambda _module, _inputs, x, values=values: values.append(x))
        picked = net(images)[torch.arange(len(images)), targets].sum()
        hook.remove()
        (gradients,) = torch.autograd.grad(picked, values[0])
        activations = values[0].detach().numpy()
        weights = GradCAMPlusPlus.get_cam_weights(None, None, None, None, activations, gradients.numpy())
        found[f"grad_cam_pp/stage{stage}"] = np.maximum((weights[:, :, None, None] * activations).sum(1), 0)
    integrated, delta = IntegratedGradients(net).attribute(
        images, torch.zeros_like(images), targets, n_steps=STEPS, method="gausslegendre", return_convergence_delta=True
    )
    found["integrated_gradients"], found["delta"] = integrated.permute(0, 2, 3, 1), delta
    wide, doubled = images.double(), copy.deepcopy(net).double()
    for rule, dtype in (("middle", torch.float64), ("gausslegendre", torch.float32)):
        method = "riemann_middle" if rule == "middle" else rule
        precise = IntegratedGradients(doubled).attribute(wide, wide * 0, targets, n_steps=STEPS, method=method)
        found[f"float64/{rule}"] = precise.permute(0, 2, 3, 1).to(dtype)
    window, stride = side // 4, side // 8
    occluded = Occlusion(net).attribute(
        images, sliding_window_shapes=(3, window, window), strides=(3, stride, stride), target=targets, baselines=0
    )
    found["occlusion"] = occluded[:, 0]
    return {name: np.asarray(each.detach() if isinstance(each, torch.Tensor) else each) for name, each in found.items()}  # pyright: ignore[reportAttributeAccessIssue]


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tiny = Net(1, 4, 5)
    with torch.no_grad():
        for norm in (module for module in tiny.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.2)
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.5, 1.5)
        tiny.linear.weight.mul_(4)
    found = {f"tiny/{name}": each for name, each in explained(tiny, smooth_images(3, 16)).items()}
    state = {name: each for name, each in tiny.state_dict().items() if "num_batches" not in name}
    found |= {f"tiny/weights/{name}": each.numpy() for name, each in state.items()}
    file = torch.load(Path(sys.argv[1]) / "resnet20-12fca82f.th", map_location="cpu", weights_only=True)
    pretrained = Net(3, 16, 10)
    weights = {name.removeprefix("module."): each for name, each in file["state_dict"].items()}
    pretrained.load_state_dict(weights, strict=False)
    found |= {f"resnet20/{name}": each for name, each in explained(pretrained, smooth_images(2, 32)).items()}
    np.savez_compressed(OUT, **found)  # pyright: ignore[reportArgumentType]
    for net in ("tiny", "resnet20"):
        picked = found[f"{net}/logits"].max(1)
        print(net, "targets", found[f"{net}/targets"], "logits", picked, "delta", found[f"{net}/delta"])
    print(OUT, OUT.stat().st_size, "bytes")
