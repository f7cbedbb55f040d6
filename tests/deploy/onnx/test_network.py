"""Graphs written from a configuration against the network: every named network, and every choice no name has.

The network itself, in its usual forms and with batch norm not folded, says what is right. Quick tests take a dozen.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from resnet_jax.deploy.checking import difference
from resnet_jax.deploy.onnx.network import Input, write_network
from resnet_jax.deploy.packages import package
from resnet_jax.errors import UsageError
from resnet_jax.models import ResNet, ResNetConfig, create_model, list_models, register_norm
from resnet_jax.models.norm import NoNorm
from resnet_jax.models.norms import NORMS
from resnet_jax.training.compile import INIT_OPTIONS
from resnet_jax.weights.fold import fold_batch_norm
from tests.depth.test_profile import pictures, smallest
from tests.tools import random_variables

TOLERANCE = 1e-5


def in_onnxruntime(data: bytes, inputs: np.ndarray) -> dict[str, np.ndarray]:
    ort = package("onnxruntime", "a test")
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input": inputs}), strict=True))


def in_openvino(data: bytes, inputs: np.ndarray) -> dict[str, np.ndarray]:
    core = package("openvino", "a test").Core()
    model = core.read_model(data)
    found = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})([inputs])
    names = [each.get_friendly_name().removesuffix("/sink_port_0") for each in model.get_results()]
    return {name: found[at] for at, name in enumerate(names)}


def check(config: ResNetConfig, x: np.ndarray, *, any_sides: bool = False, folds: tuple[bool, ...] = (True, False)):
    """Compare the graph of a network with the network, in both runtimes; it is written with ``x``'s sides."""
    model = ResNet(config)
    variables = random_variables(model, x.shape[1:])
    run = jax.jit(lambda v, x: model.apply(v, x, train=False), compiler_options=INIT_OPTIONS["cpu"])
    ours: Any = jax.device_get(run(variables, x))
    ours = ours if isinstance(ours, dict) else {"output": ours}
    written = None
    for fold in folds if config.norm == "batch" else (False,):
        network, own = fold_batch_norm(model, variables) if fold else (model, variables)
        # another size than is run, where the graph leaves it open
        sides = tuple(side + 8 for side in x.shape[1:-1]) if any_sides else x.shape[1:-1]
        written = write_network(network.config, own, Input(sides, any_sides=any_sides))
        package("onnx", "a test").checker.check_model(written.model, full_check=True)
        data, inputs = written.model.SerializeToString(), np.ascontiguousarray(np.moveaxis(x, -1, 1))
        for runtime in (in_onnxruntime, in_openvino):
            apart = difference(runtime(data, inputs), ours)
            assert apart <= TOLERANCE, (runtime.__name__, fold, apart)
    assert written is not None
    return written


def distinct() -> dict[ResNetConfig, str]:
    """Return the networks of the zoo that differ when they are small, each with the first of its names."""
    found: dict[ResNetConfig, str] = {}
    for name in list_models():
        found.setdefault(smallest(create_model(name).config), name)
    return found


QUICK = {
    "ecaresnet26t", "fixup_resnet20_cifar", "nf_resnet20_cifar", "preact20_cifar",
    "resnet18", "resnet20_cifar", "resnet_ts", "resnext29_8x64d_cifar", "vdcnn9",
}  # fmt: skip
ZOO = {name: config for config, name in distinct().items()}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ZOO]
)
def test_every_named_network(name):
    check(ZOO[name], pictures(ZOO[name])[:3], folds=(True,) if name in QUICK else (True, False))


def of(**choices: Any) -> ResNetConfig:
    plain: dict[str, Any] = {
        "stage_sizes": (1, 2), "widths": (4, 8), "num_classes": 3, "norm_groups": 2, "se_divisor": 1, "se_ratio": 0.5,
        "stem": "cifar", "head_width": 6,
    }  # fmt: skip
    return ResNetConfig(**{**plain, **choices})


SIGNAL: dict[str, Any] = {"spatial_dims": 1, "in_channels": 1}
MEL: dict[str, Any] = {**SIGNAL, "frontend": "log_mel", "mel_rate": 8000, "mel_window": 200, "mel_hop": 80}
FOUR: dict[str, Any] = {"stage_sizes": (1, 2, 2, 2), "widths": (4, 4, 8, 8), "stem": "imagenet", "output_stride": 8}
BOXES: dict[str, Any] = {"stem": "imagenet", "head_depth": 2, "pyramid_extra": 1}
BOXES |= {"stage_sizes": (1, 1, 1), "widths": (4, 8, 8)}
#: What no named network has, or not with such sides: choices, sides of the input, and whether the graph has any sides.
CASES: dict[str, tuple[ResNetConfig, tuple[int, ...], bool]] = {
    **{f"norm {n} {o}": (of(norm=n, order=o), (7, 9), True) for n in ("group", "layer", "instance")
       for o in ("post", "pre")},
    **{f"activation {a}": (of(activation=a), (8, 8), False) for a in ("leaky_relu", "elu", "gelu", "silu", "tanh")},
    **{f"shortcut {s} {o}": (of(shortcut=s, order=o, stage_sizes=(1, 2, 2), widths=(4, 8, 10)), (7, 9), True)
       for s in ("A", "A_end", "C", "D") for o in ("post", "pre")},
    **{f"stem pool {p}": (of(stem="imagenet", stem_pool=p, stem_width=8), (17, 22), True)
       for p in ("max", "zero_max", "conv")},
    **{f"attention {a} in {len(s)}-D": (of(attention=a, spatial_dims=len(s), shortcut="D"), s, True)
       for a in ("se", "eca") for s in ((13,), (5, 6, 7))},
    "nf, se, silu": (of(residual="nf_gain", norm="none", attention="se", activation="silu"), (8, 8), False),
    "standardized weights, eca": (of(weight_standardization="scaled", attention="eca"), (8, 8), False),
    "waveform": (of(**SIGNAL, stem="waveform"), (400,), True),
    "standardize": (of(**SIGNAL, block="series", stem="none", transition="none", frontend="standardize"), (50,), True),
    "one_hot": (of(**SIGNAL, frontend="one_hot", symbols=11), (50,), True),
    "log_mel": (of(**MEL, mel_bands=32), (1600,), True),
    "log_mel of two channels": (of(**{**MEL, "in_channels": 2}, mel_bands=32), (1600,), False),
    "dilated": (of(**FOUR), (33, 47), True),
    "dilated, D": (of(**FOUR, shortcut="D", block="bottleneck"), (33, 47), True),
    "conv_pool": (of(transition="conv_pool", stem="whiten"), (17, 19), True),
    **{f"head {h} {o}": (of(head=h, stem="imagenet", order=o, logit_scale=0.5), (33, 40), True)
       for h in ("fcn", "aspp", "fpn") for o in ("post", "pre")},
    **{f"head {h} in {len(s)}-D": (of(head=h, spatial_dims=len(s)), s, True)
       for h in ("fcn", "aspp", "fpn") for s in ((15,), (5, 6, 8))},
    "head several_uncertain": (
        of(head="several_uncertain", head_outputs=("digit:10", "segmentation:3:pixels")), (15, 13), True
    ),
    **{f"head {h} {n}": (of(head=h, norm=n, **BOXES), (33, 40), False) for h in ("fcos", "retinanet")
       for n in ("batch", "group", "none")},
    "no classifier": (of(num_classes=0), (8, 8), True),
}  # fmt: skip
ALWAYS = {"head fpn pre", "head fcos batch"}


@pytest.mark.parametrize(
    "case", [case if case in ALWAYS else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_every_choice(case):
    config, sides, any_sides = CASES[case]
    shape = (2, *sides, config.in_channels)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    if config.frontend == "one_hot":  # numbers that are no symbols give zeros
        x = np.random.default_rng(0).integers(-2, 14, shape).astype(np.float32)
    check(config, x, any_sides=any_sides, folds=(True,) if case in ALWAYS else (True, False))


def test_names_are_the_paths_of_modules_and_the_same_every_time():
    config = of()
    variables = random_variables(ResNet(config), (8, 8, 3))
    first, second = (write_network(config, variables, Input((8, 8))) for _ in range(2))
    assert first.model == second.model
    assert [each.name for each in first.weighted][:4] == [
        "stem/conv", "stage1/block0/branch/conv1", "stage1/block0/branch/conv2", "stage2/block0/branch/conv1",
    ]  # fmt: skip
    assert first.weighted[-1].name == "head"
    assert first.weighted[-1].op == "Gemm"
    kernels = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim > 1]
    assert len(first.weighted) == len(kernels)
    sizes = {each.name: each.dims for each in first.model.graph.initializer}
    assert sizes["stage2/block0/shortcut/conv/weight"] == [8, 4, 1, 1]
    assert sizes[first.weighted[-1].weight] == [3, 8]


def test_what_cannot_be_written_is_refused():
    config = of(**BOXES, head="fcos")
    variables = random_variables(ResNet(config), (33, 40, 3))
    with pytest.raises(UsageError, match="head fcos has anchors, which are made for one size"):
        write_network(config, variables, Input((33, 40), any_sides=True))
    plain = of()
    variables = random_variables(ResNet(plain), (8, 8, 3))
    variables["params"]["more"] = {"kernel": np.zeros((1, 1))}
    with pytest.raises(UsageError, match="more/kernel is not used"):
        write_network(plain, variables, Input((8, 8)))
    del variables["params"]["more"]
    stem = variables["params"].pop("stem")
    with pytest.raises(UsageError, match="no parameter stem/conv/kernel"):
        write_network(plain, variables, Input((8, 8)))
    register_norm("no_onnx_form")(lambda config, place: NoNorm(name=place.name))
    try:
        with pytest.raises(UsageError, match=r"norm no_onnx_form has no ONNX form: register one"):
            write_network(of(norm="no_onnx_form"), {"params": {**variables["params"], "stem": stem}}, Input((8, 8)))
    finally:
        NORMS.pop("no_onnx_form")
