"""The table of a network: its sums are those of count, and its rows what the papers say."""

from __future__ import annotations

import pytest

from resnet_jax.models.count import count
from resnet_jax.models.rows import MODELS
from resnet_jax.models.summary import summarize, total
from resnet_jax.models.towers import two_towers
from resnet_jax.models.zoo import create_model, list_models

#: One of each: plain, scalars of Fixup, gains, attention, heads of pixels and boxes, one and three
#: dimensions, characters.
SOME = [
    ("resnet20_cifar", {}, (32, 32, 3)),
    ("fixup_resnet20_cifar", {}, (32, 32, 3)),
    pytest.param("resnet18", {"head": "fcn", "num_classes": 3}, (64, 64, 3), marks=pytest.mark.slow),
    ("resnet18", {"head": "fcos", "num_classes": 3}, (64, 64, 3)),
    ("resnet_ts", {}, (150, 1)),
    ("resnet20_cifar", {"spatial_dims": 3, "in_channels": 1}, (16, 16, 16, 1)),
]


@pytest.mark.parametrize(("name", "choices", "shape"), SOME, ids=lambda value: str(value)[:40])
def test_whatever_is_put_together_the_sums_are_those_of_count(name, choices, shape):
    model = create_model(name, **choices)
    assert {total(summarize(model, shape, depth)) for depth in (1, 2, 3)} == {count(model, shape)}


@pytest.mark.slow
def test_the_same_of_every_fourth_named_network():
    for name in list_models()[::4]:
        if MODELS[name].config.num_blocks > 80:  # 1,202 layers are as many rows, and nothing else
            continue
        model, shape = create_model(name), MODELS[name].input_shape
        assert (name, total(summarize(model, shape))) == (name, count(model, shape))


def test_rows_of_resnet50_are_those_of_its_table():
    """Shapes of He et al. 2016, table 1; parameters and multiply-adds as products of kernel sides and channels."""
    rows = {row.path: row for row in summarize(create_model("resnet50"), (224, 224, 3))}
    stem = rows["stem/conv"]
    assert (stem.kind, stem.shape, stem.params, stem.macs) == ("Conv", (112, 112, 64), 7 * 7 * 3 * 64, 112**2 * 9408)
    middle = rows["stage3/block5/branch/conv2"]  # the last block of the third stage, which is not traced itself
    assert (middle.shape, middle.params, middle.macs) == ((14, 14, 256), 9 * 256**2, 14**2 * 9 * 256**2)
    assert (middle.block, rows["stage4/block0/branch/conv1"].block, stem.block) == (12, 13, None)
    assert (rows["stage3/block5/branch/norm2"].params, rows["stage3/block5/branch/norm2"].batch_stats) == (512, 512)
    assert (rows["head"].shape, rows["head"].params) == ((1000,), 2048 * 1000 + 1000)
    assert total([*rows.values()]) == count(create_model("resnet50"), (224, 224, 3))
    blocks = summarize(create_model("resnet50"), (224, 224, 3), depth=2)
    assert [row.block for row in blocks] == [None, *range(16), None]
    assert [row.shape for row in summarize(create_model("resnet50"), (224, 224, 3), depth=1)] == [
        (56, 56, 64), (56, 56, 256), (28, 28, 512), (14, 14, 1024), (7, 7, 2048), (1000,),
    ]  # fmt: skip


def test_rows_are_in_the_order_of_computation_and_layers_of_several_maps_are_one():
    rows = summarize(create_model("resnet18", head="fcos", num_classes=3), (64, 64, 3))
    paths = [row.path for row in rows]
    assert len(set(paths)) == len(paths)
    assert paths[0] == "stem/conv"
    assert paths.index("stage2/block1/branch/conv2") < paths.index("stage3/block0/branch/conv1")
    assert max(row.calls for row in rows) >= 3  # the towers see every map of the pyramid


def test_of_two_towers_both_are_listed_by_name():
    left, right = create_model("resnet20_cifar", num_classes=8), create_model("resnet_ts", num_classes=8)
    model = two_towers(left.config, right.config, (150, 1))
    rows = summarize(model, (32, 32, 3), depth=1)
    assert {row.path.partition("/")[0] for row in rows} == {"left", "right", "log_scale"}
    assert total(rows) == count(model, (32, 32, 3))
