"""Write ``tests/reference/torch.npz``: results of PyTorch 2.13.0 and timm 1.0.31 that our tests compare with.

    PYTHON_WITH_TORCH_AND_TIMM experiments/torch_reference.py

It imports nothing of ours, and the tests do not import it. timm's optimizers and averages need no torchvision.

| name | what |
|---|---|
| ``ema/values``, ``ema/statistics`` | a parameter and a buffer after each of 12 updates, (13, 3); row 0 is the start |
| ``ema/CASE/values``, ``ema/CASE/statistics`` | their averages after each update, (12, 3) |
| ``optim/start/NAME`` | parameters before the first update |
| ``optim/grads/NAME`` | gradients of 8 updates, (8, ...) |
| ``optim/rates`` | learning rates, (8,), for a base rate of 1: half a cosine |
| ``optim/CASE/NAME`` | the parameter after each update, (8, ...) |
| ``norm/inputs`` | four batches (N, C, H, W) |
| ``norm/mean``, ``norm/var`` | BatchNorm2d's running statistics after each, (4, C) |
| ``gelu/x``, ``gelu/erf``, ``gelu/tanh`` | torch.nn.GELU() and GELU(approximate="tanh") |
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from timm.optim import Lamb, Lars
from timm.utils.model_ema import ModelEmaV3
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

torch.manual_seed(0)
rng = np.random.default_rng(0)
out: dict[str, np.ndarray] = {}


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.values = torch.nn.Parameter(torch.zeros(3))
        self.register_buffer("statistics", torch.ones(3))


def set_to(model: Small, row: int) -> None:
    with torch.no_grad():
        model.values.copy_(torch.from_numpy(out["ema/values"][row]))
        model.statistics.copy_(torch.from_numpy(out["ema/statistics"][row]))


out["ema/values"] = rng.normal(size=(13, 3)).astype(np.float32)
out["ema/statistics"] = rng.uniform(0.5, 2, size=(13, 3)).astype(np.float32)
timm_cases = {
    "timm": {"decay": 0.9},
    "timm_warmup": {"decay": 0.8, "use_warmup": True},
    "timm_all": {
        "decay": 0.7, "use_warmup": True, "warmup_gamma": 2.0, "warmup_power": 0.75, "min_decay": 0.3,
        "update_after_step": 3,
    },
    "timm_after": {"decay": 0.9, "update_after_step": 4},
    "timm_buffers": {"decay": 0.9, "exclude_buffers": True},
}  # fmt: skip
for case, choices in timm_cases.items():
    model = Small()
    set_to(model, 0)
    average = ModelEmaV3(model, **choices)
    rows = []
    for update in range(1, 13):
        set_to(model, update)
        average.update(model, step=update)
        rows.append([x.detach().numpy().copy() for x in (average.module.values, average.module.statistics)])
    out[f"ema/{case}/values"], out[f"ema/{case}/statistics"] = (np.stack(part) for part in zip(*rows, strict=True))
for case, buffers in {"torch": False, "torch_buffers": True}.items():
    model = Small()
    set_to(model, 0)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=buffers)
    rows = []
    for update in range(1, 13):
        set_to(model, update)
        average.update_parameters(model)
        rows.append([x.detach().numpy().copy() for x in (average.module.values, average.module.statistics)])
    out[f"ema/{case}/values"], out[f"ema/{case}/statistics"] = (np.stack(part) for part in zip(*rows, strict=True))

UPDATES, SHAPES = 8, {"kernel": (4, 3), "bias": (3,), "scale": (4,)}
for name, shape in SHAPES.items():
    out[f"optim/start/{name}"] = rng.normal(size=shape).astype(np.float32)
    out[f"optim/grads/{name}"] = rng.normal(size=(UPDATES, *shape)).astype(np.float32)
out["optim/rates"] = np.array([0.5 * (1 + math.cos(math.pi * t / UPDATES)) for t in range(UPDATES)], np.float64)
optim_cases = {
    "lars": (Lars, {"momentum": 0.9, "trust_coeff": 0.02}, 0.1, ("kernel",)),
    "lars_nesterov": (Lars, {"momentum": 0.9, "trust_coeff": 0.02, "nesterov": True}, 0.1, ("kernel",)),
    "lars_no_decay": (Lars, {"momentum": 0.9, "trust_coeff": 0.02}, 0.0, ()),
    "lars_bias_decays": (Lars, {"momentum": 0.0, "trust_coeff": 0.02}, 0.1, ("kernel", "bias")),
    "lamb": (Lamb, {}, 0.1, ("kernel",)),
    "lamb_no_decay": (Lamb, {}, 0.0, ()),
    "lamb_clip_3": (Lamb, {"max_grad_norm": 3.0}, 0.1, ("kernel",)),
    "lamb_no_clip": (Lamb, {"max_grad_norm": None}, 0.1, ("kernel",)),
}
for case, (make, choices, decay, decayed) in optim_cases.items():
    params = {name: torch.nn.Parameter(torch.from_numpy(out[f"optim/start/{name}"].copy())) for name in SHAPES}
    groups = [
        {"params": [params[name] for name in SHAPES if name in decayed], "weight_decay": decay},
        {"params": [params[name] for name in SHAPES if name not in decayed], "weight_decay": 0.0},
    ]
    optimizer = make([group for group in groups if group["params"]], lr=1.0, **choices)
    rows = {name: [] for name in SHAPES}
    for update, rate in enumerate(out["optim/rates"]):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * float(rate)
        for name, parameter in params.items():
            parameter.grad = torch.from_numpy(out[f"optim/grads/{name}"][update].copy())
        optimizer.step()
        for name, parameter in params.items():
            rows[name].append(parameter.detach().numpy().copy())
    for name in SHAPES:
        out[f"optim/{case}/{name}"] = np.stack(rows[name])

norm = torch.nn.BatchNorm2d(3)  # momentum 0.1: ours 0.9
out["norm/inputs"] = rng.normal(size=(4, 4, 3, 2, 2)).astype(np.float32) * 2 + 1
means, variances = [], []
for batch in out["norm/inputs"]:
    norm(torch.from_numpy(batch))
    means.append(norm.running_mean.numpy().copy())
    variances.append(norm.running_var.numpy().copy())
out["norm/mean"], out["norm/var"] = np.stack(means), np.stack(variances)

x = torch.linspace(-6, 6, 97)
out["gelu/x"] = x.numpy()
out["gelu/erf"] = torch.nn.GELU()(x).numpy()
out["gelu/tanh"] = torch.nn.GELU(approximate="tanh")(x).numpy()

np.savez(Path(__file__).parents[1] / "tests" / "reference" / "torch.npz", **out)  # pyright: ignore[reportArgumentType]
