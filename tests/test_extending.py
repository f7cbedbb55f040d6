"""Every example of docs/extending.md is whole, short, and does what the page says."""

from __future__ import annotations

import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.cli.imports import import_given
from resnet_jax.cli.options import parse
from resnet_jax.cli.recipe import named_recipe
from resnet_jax.cli.train import TrainOptions
from resnet_jax.data import TrainBatches, resolve_splits
from resnet_jax.data.registry import SOURCES
from resnet_jax.data.transforms import TRANSFORMS, divide, list_transforms
from resnet_jax.depth.predict import check_predictable
from resnet_jax.errors import UsageError
from resnet_jax.models import HEADS, MODELS, ResNetConfig, create_model
from resnet_jax.models.branches import BLOCKS, BranchConv, register_block
from resnet_jax.models.norms import NORMS, register_norm
from resnet_jax.report.trackers import OBSERVERS, make_observers
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.tasks.registry import TASKS, list_tasks
from resnet_jax.training.cadence import Cadence
from resnet_jax.training.observers import RunFacts
from resnet_jax.training.roles import mask
from tests.tools import random_variables

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
LINES = 25


def examples() -> dict[str, str]:
    """Section of the page -> its Python."""
    return dict(re.findall(r"^## ([^\n]+)\n.*?```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S | re.M))


@pytest.fixture(autouse=True)
def registries_as_before():
    """Forget what an example registers."""
    list_tasks()  # registers ours
    list_transforms()
    tables = (MODELS, BLOCKS, HEADS, NORMS, SOURCES, TRANSFORMS, TASKS, OBSERVERS)
    before = [dict(table) for table in tables]
    yield
    for table, kept in zip(tables, before, strict=True):
        for name in set(table) - set(kept):
            del table[name]
    sys.modules.pop("resnet_jax_example", None)


def run(section: str) -> dict[str, Any]:
    module = types.ModuleType("resnet_jax_example")
    sys.modules[module.__name__] = module  # as if it had been imported: dataclasses look their module up
    exec(compile(examples()[section], f"docs/extending.md, {section}", "exec"), vars(module))
    return vars(module)


pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the page is in the source tree")


@pytest.mark.parametrize("section", sorted(examples()) if PAGE.is_file() else [])
def test_an_example_has_at_most_25_lines(section):
    assert len([line for line in examples()[section].splitlines() if line.strip()]) <= LINES


def test_a_norm_from_outside_normalizes_every_branch():
    found = run("A norm")
    model, variables = found["model"], found["variables"]
    scales = [path for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"]) if "norm" in str(path)]
    assert (len(scales) == 1 + 9 * 2 and "batch_stats" not in variables) or not variables["batch_stats"]
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 16))
    module = found["RMSNorm"](1e-5)
    y = module.apply({"params": {"scale": jnp.full(16, 2.0)}}, x, train=True)
    np.testing.assert_allclose(np.square(y).mean(-1), 4.0, rtol=1e-3)
    assert any(jax.tree.leaves(mask(variables["params"], ("norm_scale",)))) is not False
    with pytest.raises(UsageError, match="norm rms, which was registered"):
        check_predictable(model.config)


def test_a_block_from_outside_is_counted_and_computed():
    found = run("A block")
    plain = 3 * 3 * 3 * 16 + 2 * 16 + 64 * 10 + 10  # stem and head
    blocks = sum(
        9 * i + i * o + 2 * i + 2 * o
        for i, o in [(16, 16)] * 3 + [(16, 32)] + [(32, 32)] * 2 + [(32, 64)] + [(64, 64)] * 2
    )
    assert found["counts"].params == plain + blocks


def test_a_head_from_outside_makes_the_outputs():
    found = run("A head")
    head = found["variables"]["params"]["head"]
    assert head["classifier"]["kernel"].shape == (64, 5)
    variables = random_variables(found["model"], (16, 16, 3))
    assert found["model"].apply(variables, jnp.ones((2, 16, 16, 3)), train=False).shape == (2, 16, 16, 5)


def test_a_network_from_outside_is_found_by_name():
    model = run("A named network")["model"]
    assert (model.config.num_blocks, model.config.shortcut) == (6, "B")
    assert "resnet14_mine" in MODELS


def test_a_task_from_outside_has_its_loss_and_the_metrics_of_what_it_is_made_of():
    task = run("A task")["task"]
    logits, labels = jnp.log(jnp.array([[0.5, 0.25, 0.25]])), jnp.array([1])
    np.testing.assert_allclose(task.loss(logits, {"label": labels}), -(0.75**2) * np.log(0.25), rtol=1e-6)
    assert (task.kind, task.headline, task.num_outputs) == ("focal", "accuracy", 3)
    assert "focal" in list_tasks()


def test_a_source_from_outside_is_divided_and_batched():
    dataset = run("A source")["dataset"]
    batch = TrainBatches(resolve_splits(dataset, seed=0).train, 8, seed=0).batch(3)
    assert (batch["image"].shape, batch["image"].dtype, dataset.class_names) == (
        (8, 64, 1),
        np.float32,
        ("slow", "fast"),
    )


def test_a_transform_from_outside_is_applied_in_its_place():
    found = run("A transform")
    pipeline = divide(found["data"].augment)
    [snow] = (*pipeline.before, *pipeline.after)
    example = {"image": np.zeros((50, 50, 3), np.uint8)}
    white = snow.apply(example, np.random.default_rng(0), {})["image"] == 255
    assert (white.all(axis=-1) == white.any(axis=-1)).all()
    assert abs(white.mean() - 0.2) < 0.03


def test_an_observer_from_outside_is_made_by_its_name(tmp_path):
    run("An observer")
    [losses] = make_observers(["losses"])
    losses.on_start(RunFacts("run", tmp_path, {}, 0, 10, 5, 8, Cadence(period=1)))
    losses.on_epoch({"epoch": 1.0, "loss": 0.5})
    assert (tmp_path / "losses.txt").read_text() == "1 0.5000\n"


def test_the_command_lines_and_the_recipe_of_the_page_take_what_its_file_registers(tmp_path, monkeypatch):
    text = PAGE.read_text(encoding="utf-8")
    (tmp_path / "mine.py").write_text("\n".join(examples()[name] for name in ("A norm", "An observer")))
    (tmp_path / "r.yaml").write_text(re.findall(r"```yaml\n(.*?)```", text, re.S)[0])
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line)[1:] for line in re.findall(r"```sh\n(.*?)```", text, re.S)[0].splitlines()]
    words = import_given(lines[0])
    assert words[-2:] == ["--imports", str(tmp_path / "mine.py")]
    recipe = named_recipe(words[1:], "train")
    options = parse(TrainOptions, recipe.rest, verb="train", about="", default=TrainOptions(config=recipe.config))
    assert options.config.model.changes["norm"] == "rms"
    assert (options.config.train.observers, options.config.imports) == (("losses",), (str(tmp_path / "mine.py"),))
    assert import_given(lines[1]) == ["models"]
    found = load_recipe("r.yaml")
    assert (found.model.changes["norm"], found.imports) == ("rms", (str(tmp_path / "mine.py"),))


def test_a_name_is_given_once():
    for table, name in ((MODELS, "resnet50"), (BLOCKS, "basic"), (NORMS, "batch")):
        with pytest.raises(UsageError, match=f"there is a .* called '{name}' already"):
            table[name] = table[name]
    with pytest.raises(UsageError, match="cannot name a norm"):
        register_norm("no name")


def test_a_block_that_does_not_fit_its_skip_is_refused():
    @register_block("broken", expansion=1)
    def broken(config, plan):
        return (BranchConv(plan.features, 3),)

    model = create_model("resnet20_cifar", block="broken")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="block 'broken' of stage 2: its convolutions give stride 1 and 32 channels"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))


def test_values_that_nobody_registered_are_refused_and_the_registered_are_named():
    run("A norm")
    with pytest.raises(UsageError, match="unknown norm 'rmz'; did you mean 'rms'"):
        ResNetConfig((1,), (8,), norm="rmz")  # pyright: ignore[reportArgumentType]
