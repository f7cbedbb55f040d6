"""Create the table of published weights, resnet_jax/weights/published.csv, from what their authors' packages state.

    PEERS/bin/python experiments/published_weights.py RESULTS.csv > resnet_jax/weights/published.csv

Run it in an environment with torchvision 0.29 and timm 1.0.31 and nothing of this package. RESULTS.csv is
``results/results-imagenet.csv`` of huggingface/pytorch-image-models, commit aa4b5850; any CPU, seconds. The accuracy of
timm's weights is the row with the size and crop that timm itself tests at. The CIFAR nets come from two repositories'
READMEs: akamaster/pytorch_resnet_cifar10, commit d5489e89, and chenyaofo/pytorch-cifar-models, commit 786c1625 (its
normalization: chenyaofo/image-classification-codebase, conf/cifar10.conf and cifar100.conf).

The name of a file contains the first eight digits of its SHA-256. Complete ones are in :data:`WHOLE`: computed from the
files in akamaster's repository, or found in several public repositories that name the same file.
"""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from typing import Any

COLUMNS = (
    "name", "model", "choices", "format", "url", "hub", "sha256", "licence", "classes", "mean", "std", "image_size",
    "resize", "interpolation", "top1", "top5", "trained_at", "source",
)  # fmt: skip

#: timm's architecture -> our network and what is changed in it, where the names differ.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"resnetv2_{depth}x{factor}_bit": (f"bit_r{depth}x{factor}", {"ws_eps": 1e-8})
        for depth, factor in ((50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4))
    },
    "nf_resnet50": ("nf_resnet50_timm", {}),
    "resnet50_gn": ("resnet50", {"norm": "group"}),
    "resnetv2_50d_gn": ("resnetv2_50d", {"norm": "group"}),
    "resnet10t": ("resnet26t", {"stage_sizes": [1, 1, 1, 1], "block": "basic"}),
    "resnet14t": ("resnet26t", {"stage_sizes": [1, 1, 1, 1]}),
    "resnet101c": ("resnet50c", {"stage_sizes": [3, 4, 23, 3]}),
    "resnet152c": ("resnet50c", {"stage_sizes": [3, 8, 36, 3]}),
    "resnet101s": ("resnet50s", {"stage_sizes": [3, 4, 23, 3]}),
    "resnet152s": ("resnet50s", {"stage_sizes": [3, 8, 36, 3]}),
    "resnext101_32x32d": ("resnext101_32x4d", {"base_width": 32}),
    "seresnet152d": ("seresnet152", {"stem": "deep", "shortcut": "D"}),
    "seresnext26d_32x4d": ("seresnext50_32x4d", {"stage_sizes": [2, 2, 2, 2], "stem": "deep", "shortcut": "D"}),
    "seresnext26t_32x4d": ("seresnext50_32x4d", {"stage_sizes": [2, 2, 2, 2], "stem": "deep_tiered", "shortcut": "D"}),
    "seresnext101_64x4d": ("seresnext101_32x4d", {"groups": 64}),
    "seresnext101d_32x8d": ("seresnext101_32x8d", {"stem": "deep", "shortcut": "D"}),
    "ecaresnet269d": ("ecaresnet50d", {"stage_sizes": [3, 30, 48, 8]}),
    "ecaresnetlight": ("ecaresnet50d", {"stage_sizes": [1, 1, 11, 3], "stem": "imagenet"}),
}
#: timm's architectures that are ours under the same name.
SAME = {
    "resnet18", "resnet34", "resnet26", "resnet50", "resnet101", "resnet152", "resnet18d", "resnet34d", "resnet26d",
    "resnet50d", "resnet101d", "resnet152d", "resnet200d", "resnet26t", "resnet50c", "resnet50s", "resnext50_32x4d",
    "resnext101_32x4d", "resnext101_32x8d", "resnext101_64x4d", "resnext101_32x16d", "resnext50d_32x4d",
    "wide_resnet50_2", "wide_resnet101_2", "seresnet50", "seresnext50_32x4d", "seresnext101_32x4d",
    "seresnext101_32x8d", "ecaresnet26t", "ecaresnet50t", "ecaresnet50d", "ecaresnet101d", "resnetrs50",
    "resnetrs101", "resnetrs152", "resnetrs200", "resnetrs270", "resnetrs350", "resnetrs420", "resnetv2_18",
    "resnetv2_34", "resnetv2_18d", "resnetv2_34d", "resnetv2_50", "resnetv2_101",
}  # fmt: skip
CLASSES = {1000: "imagenet-1k", 21843: "imagenet-21k"}
WHOLE = (
    "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
    "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850",
    "014dd6541728a1c700b1642ab640e211dc6eb8ed507d70697458dc8f8a0ae2e4",
    "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367",
    "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca",
    "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
    "95faca4d11227dddf8633dbb5ff6c8a9003c1aa5b8945c73834b8007b10950b8",
    "4118986f0df73003d572b0e397f0ac7b3f60af1f31aff3d2da164536e36f6ec8",
    "187c023aee0c9cf3093a682d9447a538cbaf5489f7ae78a7df4edf2246ce380b",
)
AKAMASTER = {
    20: ("12fca82f", 91.73), 32: ("d509ac18", 92.63), 44: ("014dd654", 93.10), 56: ("4bfd9763", 93.39),
    110: ("1d1ed7c2", 93.68), 1202: ("f3b1deed", 93.82),
}  # fmt: skip
CHENYAOFO = {
    "cifar10": {
        20: ("4118986f", 92.60, 99.81), 32: ("ef93fc4d", 93.53, 99.77), 44: ("2a3cabcb", 94.01, 99.77),
        56: ("187c023a", 94.37, 99.83),
    },
    "cifar100": {
        20: ("23dac2f1", 68.83, 91.01), 32: ("84213ce6", 70.16, 90.89), 44: ("ffe32858", 71.63, 91.58),
        56: ("f2eff4c8", 72.63, 91.94),
    },
}  # fmt: skip
CHENYAOFO_INPUT = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)),
}


def checksum(url: str) -> str:
    """Return the SHA-256 of a file as far as it is known: whole, its first digits in the file's name, or nothing."""
    found = re.search(r"-([0-9a-f]{8})\.\w+$", url)
    digits = found.group(1) if found else ""
    return next((whole for whole in WHOLE if digits and whole.startswith(digits)), digits)


def texts(values: Any) -> str:
    """Return numbers separated by spaces."""
    return " ".join(f"{value:g}" for value in values)


def torchvision_rows() -> list[dict[str, Any]]:
    """Return torchvision's weights of residual networks: what its enumerations say."""
    from torchvision.models import get_model_weights, list_models  # pyright: ignore[reportMissingImports]

    rows = []
    for name in list_models():
        for weights in get_model_weights(name) if re.match(r"(wide_)?resne[tx]", name) else ():
            how = weights.transforms()
            top = weights.meta["_metrics"]["ImageNet-1K"]
            rows.append(
                {
                    "name": f"{name}.{weights.name.lower()}", "model": name, "format": "torchvision",
                    "url": weights.url, "licence": "bsd-3-clause", "classes": "imagenet-1k", "mean": texts(how.mean),
                    "std": texts(how.std), "image_size": how.crop_size[0], "resize": how.resize_size[0],
                    "interpolation": how.interpolation.value, "top1": top["acc@1"], "top5": top["acc@5"],
                    "source": f"torchvision {type(weights).__name__}.{weights.name}",
                }
            )  # fmt: skip
    return rows


def timm_rows(results: str) -> list[dict[str, Any]]:
    """Return timm's weights of networks that are ours: its default configurations and its table of results."""
    from timm.models import get_pretrained_cfg, list_models  # pyright: ignore[reportMissingImports]

    with open(results, encoding="utf-8") as file:
        measured = {(row["model"], int(row["img_size"]), float(row["crop_pct"])): row for row in csv.DictReader(file)}
    rows = []
    modules = "resnet", "resnetv2", "nfnet"
    for name in [found for module in modules for found in list_models(module=module, pretrained=True)]:
        cfg = get_pretrained_cfg(name)
        if cfg is None or cfg.architecture not in SAME | NETWORKS.keys() or cfg.num_classes not in CLASSES:
            continue
        assert cfg.crop_mode == "center", name
        model, choices = NETWORKS.get(cfg.architecture, (cfg.architecture, {}))
        if cfg.num_classes != 1000:
            choices = {**choices, "num_classes": cfg.num_classes}
        size = (cfg.test_input_size or cfg.input_size)[-1]
        share = cfg.test_crop_pct or cfg.crop_pct
        top = measured.get((name, size, share), {})
        rows.append(
            {
                "name": name, "model": model, "choices": json.dumps(choices) if choices else "", "format": "timm",
                "url": cfg.url or "", "hub": f"{cfg.hf_hub_id}/model.safetensors", "licence": cfg.license,
                "classes": CLASSES[cfg.num_classes], "mean": texts(cfg.mean), "std": texts(cfg.std),
                "image_size": size, "resize": math.floor(size / share), "interpolation": cfg.interpolation,
                "top1": top.get("top1", ""), "top5": top.get("top5", ""), "trained_at": cfg.input_size[-1],
                "source": f"timm {name}",
            }
        )  # fmt: skip
    return rows


def cifar_rows() -> list[dict[str, Any]]:
    """Return the nets of two repositories for images of 32 pixels."""
    same = {"image_size": 32, "resize": 32, "interpolation": "area", "trained_at": 32}
    imagenet = {"mean": "0.485 0.456 0.406", "std": "0.229 0.224 0.225"}
    base = "https://raw.githubusercontent.com/akamaster/pytorch_resnet_cifar10/d5489e8995e81e91ce6b1d69dcc98ad579b0b153"
    rows = [
        {
            **same, **imagenet, "name": f"resnet{depth}_cifar.akamaster", "model": f"resnet{depth}_cifar",
            "format": "cifar", "url": f"{base}/pretrained_models/resnet{depth}-{digits}.th", "licence": "bsd-2-clause",
            "classes": "cifar10", "top1": top, "source": "akamaster/pytorch_resnet_cifar10",
        }
        for depth, (digits, top) in AKAMASTER.items()
    ]  # fmt: skip
    release = "https://github.com/chenyaofo/pytorch-cifar-models/releases/download/resnet"
    for data, nets in CHENYAOFO.items():
        mean, std = CHENYAOFO_INPUT[data]
        for depth, (digits, top1, top5) in nets.items():
            named = {"name": f"resnet{depth}_cifar_b.chenyaofo_{data}", "model": f"resnet{depth}_cifar_b"}
            rows.append(
                {
                    **same, **named, "choices": '{"num_classes": 100}' if data == "cifar100" else "",
                    "format": "torchvision", "url": f"{release}/{data}_resnet{depth}-{digits}.pt",
                    "licence": "bsd-3-clause", "classes": data, "mean": texts(mean), "std": texts(std), "top1": top1,
                    "top5": top5, "source": "chenyaofo/pytorch-cifar-models",
                }
            )  # fmt: skip
    return rows


def main() -> None:
    """Write the table to standard output."""
    table = csv.DictWriter(sys.stdout, COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    for row in [*cifar_rows(), *torchvision_rows(), *timm_rows(sys.argv[1])]:
        table.writerow({**row, "sha256": checksum(row["url"])})  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main()
