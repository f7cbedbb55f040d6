"""Fine-tuning from a run directory, end to end: what is loaded, frozen, recorded, resumed and refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.cli.eval import run as eval_command
from resnet_jax.cli.train import run as train_command
from resnet_jax.errors import RunError, UsageError
from resnet_jax.models.digest import params_digest
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.build import build_model
from resnet_jax.runs.config import DataConfig, RunConfig, TrainConfig, config_to_yaml
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.evaluate import evaluate_run, load_run, reestimate_run
from resnet_jax.runs.finetune import describe, find_source, require_transfer, start_state
from resnet_jax.runs.fit import fit
from resnet_jax.runs.recipes import parse_config
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.ema import Averaging
from resnet_jax.training.optimizers import OptimConfig
from resnet_jax.training.placement import Placement
from resnet_jax.training.state import TrainState
from tests.tools import random_variables, write_by_hand, write_run

#: Blocks to freeze and one to move.
NETWORK = ModelSpec("resnet20_cifar", stage_sizes=(1, 2), widths=(4, 8))


def _images(path: Path, channels: int, classes: list[str]) -> str:
    """64 training and 16 test images of 8x8 noise, brighter for higher classes."""
    rng = np.random.default_rng(0)
    parts = {}
    for name, count in (("train", 64), ("test", 16)):
        y = np.arange(count) % len(classes)
        x = np.clip(rng.normal(60 + 40 * y[:, None, None, None], 20, (count, 8, 8, channels)), 0, 255)
        parts |= {f"x_{name}": x.astype(np.uint8), f"y_{name}": y}
    np.savez(path, **parts, class_names=np.array(classes))
    return f"npz:{path}"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Images and a run to start from: three classes, three channels; its averages are what it evaluates."""
    folder = tmp_path_factory.mktemp("finetune")
    config = RunConfig(
        model=NETWORK,
        data=DataConfig(_images(folder / "source.npz", 3, ["a", "b", "c"]), val_fraction=0.0),
        train=TrainConfig(ema=Averaging(0.9)),
    )
    np.savez(folder / "weights.npz", **_named(write_run(folder / "source", config)))
    _images(folder / "grey.npz", 1, ["k", "l", "m", "n"])
    return folder


def _named(tree: dict) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def _tuning(place: Path, **changes) -> RunConfig:
    config = RunConfig(
        model=NETWORK,
        data=DataConfig(f"npz:{place / 'grey.npz'}", val_fraction=0.0),
        train=TrainConfig(batch_size=16, limit="2 steps", ema=Averaging(0.5)),
        optim=OptimConfig(
            "sgd", 0.01, weight_decay=0.1, freeze=("stem", "stage1", "stage2/block0"), layer_decay=0.75
        ),
        init_from=str(place / "source"), init_head="new", init_stem="mean",
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def _saved(run_dir: Path) -> TrainState:
    """Return what the newest checkpoint of a fine-tuned run holds, as NumPy arrays by path."""
    config = RunDirectory(run_dir).read_config()
    model = build_model(config, RunDirectory(run_dir).read_data())
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=Placement.of().state()),
        dict(random_variables(model, (8, 8, 1))),
    )
    with Checkpoints(run_dir / "checkpoints", owner=False) as checkpoints:
        part, _ = checkpoints.restore_part("last", {**like, "ema": like})
    return part


@pytest.fixture(scope="module")
def tuned(place, tmp_path_factory) -> tuple[Path, str]:
    """The run of `_tuning`, from the command line, and its digest."""
    folder = tmp_path_factory.mktemp("runs")
    plain = dataclasses.replace(_tuning(place), init_from=None, init_head="exact", init_stem="exact")
    plain = dataclasses.replace(plain, optim=dataclasses.replace(plain.optim, freeze=(), layer_decay=None))
    (folder / "plain.yaml").write_text(config_to_yaml(plain))
    summary = train_command(
        [str(folder / "plain.yaml"), "--run-dir", str(folder / "tuned"), "--init-from", str(place / "source"),
         "--init-head", "new", "--init-stem", "mean", "--optim.freeze", "stem", "stage1", "stage2/block0",
         "--optim.layer-decay", "0.75"]
    )  # fmt: skip
    assert RunDirectory(folder / "tuned").read_config() == _tuning(place)
    return folder / "tuned", summary["params_digest"]


def test_frozen_parameters_are_the_source_s_to_the_bit(place, tuned):
    source, saved = dict(np.load(place / "weights.npz")), _saved(tuned[0])
    params = _named(saved["params"])
    frozen = [p for p in params if p.startswith(("stem/norm", "stage1/", "stage2/block0/"))]
    assert len(frozen) > 12
    for path in frozen:
        np.testing.assert_array_equal(params[path], source[f"params/{path}"])
        np.testing.assert_array_equal(_named(saved["ema"]["params"])[path], source[f"params/{path}"])
    mean = source["params/stem/conv/kernel"].astype(np.float64).sum(2, keepdims=True)
    np.testing.assert_array_equal(params["stem/conv/kernel"], mean.astype(np.float32))


def test_the_others_moved_but_not_far(place, tuned):
    source, params = dict(np.load(place / "weights.npz")), _named(_saved(tuned[0])["params"])
    for path in ("stage2/block1/branch/conv1/kernel", "stage2/block1/branch/norm2/scale"):
        assert (params[path] != source[f"params/{path}"]).any()
        np.testing.assert_allclose(params[path], source[f"params/{path}"], atol=0.1)
    assert params["head/kernel"].shape == (8, 4)


def test_statistics_of_frozen_layers_move_unless_they_are_frozen_too(place, tuned):
    source, stats = dict(np.load(place / "weights.npz")), _named(_saved(tuned[0])["batch_stats"])
    path = "stage1/block0/branch/norm1/mean"
    assert (stats[path] != source[f"batch_stats/{path}"]).all()


def test_the_directory_says_what_it_began_with(place, tuned):
    weights = dict(np.load(place / "weights.npz"))
    tree = {name: {k.removeprefix(f"{name}/"): v for k, v in weights.items() if k.startswith(name)}
            for name in ("params", "batch_stats")}  # fmt: skip
    record = json.loads((tuned[0] / "start.json").read_text())
    nested = load_run(place / "source").variables
    assert record == {
        "init_from": str(place / "source"),
        "step": 7,
        "params_digest": params_digest(nested["params"], nested["batch_stats"]),
    }
    for name, flat in tree.items():
        for path, array in _named(nested[name]).items():
            np.testing.assert_array_equal(array, flat[path])
    config = RunDirectory(tuned[0]).read_config()
    assert (config.init_from, config.init_head, config.init_stem) == (str(place / "source"), "new", "mean")


def test_it_resumes_without_its_source_and_notices_another_one(place, tuned, tmp_path):
    """A copy of the run, as a kill right before the final test would leave it; the source goes away, then changes."""
    moved = tmp_path / "place"
    shutil.copytree(place, moved)
    config = _tuning(moved)
    run_dir = tmp_path / "run"
    shutil.copytree(tuned[0], run_dir)
    write_by_hand(run_dir / "config.yaml", config_to_yaml(config))
    (run_dir / "summary.json").unlink()
    shutil.rmtree(moved / "source")
    assert find_source(config, RunDirectory(run_dir)) is None
    assert fit(config, run_dir).summary.params_digest == tuned[1]
    write_run(moved / "source", RunDirectory(place / "source").read_config(), seed=1)
    with pytest.raises(RunError, match=r"are not those that .* began with \(see start.json\)"):
        fit(config, run_dir)
    with pytest.raises(UsageError, match="nowhere is not a run directory"):
        find_source(dataclasses.replace(config, init_from=str(tmp_path / "nowhere")), RunDirectory(tmp_path / "new"))


@pytest.mark.parametrize(
    ("imported", "data", "said"),
    [
        (("a", "b", "c"), ("a", "b", "c"), ()),
        (("a", "b", "c"), ("0", "1", "2"), ("classes matched by number, counted from 0: 0 is a, 1 is b, 2 is c",)),
        (("0", "1", "2"), ("a", "b", "c"), ()),  # names that nobody gave
        (("a", "b", "c"), ("b", "a", "c"), None),
        (("a", "b", "c"), ("a", "b", "d"), None),
    ],
)
def test_classes_of_an_imported_network_are_compared_where_they_are_known(place, imported, data, said):
    config = RunConfig(init_from=str(place / "source"))
    source = find_source(config, RunDirectory(place / "new"))
    assert source is not None
    card = dataclasses.replace(source.trained.card, examples={}, class_names=imported)
    source = dataclasses.replace(source, trained=dataclasses.replace(source.trained, card=card))
    parts: Any = SimpleNamespace(model=source.trained.model)
    now = dataclasses.replace(card, class_names=data, examples={"train": 6})
    if said is None:
        with pytest.raises(UsageError, match=r"trained on other classes.*init_head new"):
            require_transfer(config, source, parts, now)
    else:
        require_transfer(config, source, parts, now)
        assert describe(config, source, parts, now)[1:] == said


def test_averages_and_optimizer_start_from_the_loaded_weights(place):
    """An optimizer that remembers where it began must remember the loaded weights, not the random ones."""

    def init(params):
        return {"start": params}

    @dataclasses.dataclass
    class FewParts:
        model: object
        placement: Placement
        tx: optax.GradientTransformation

        def new_state(self):
            fresh = random_variables(self.model, (8, 8, 3), seed=5)
            key, ema = jax.random.key(1), jax.tree.map(jnp.zeros_like, fresh)
            return TrainState(
                jnp.int32(0), fresh["params"], fresh["batch_stats"], init(fresh["params"]), key, ema
            )  # fmt: skip

    config = RunConfig(init_from=str(place / "source"))
    source = find_source(config, RunDirectory(place / "new"))
    assert source is not None
    parts = FewParts(
        source.trained.model, Placement.of(), optax.GradientTransformation(init, lambda g, s, p=None: (g, s))
    )
    state = start_state(config, source, parts)
    loaded = _named(source.trained.variables)
    for tree in (state.variables, state.ema, {"params": state.opt_state["start"]}):
        for path, array in _named(tree).items():
            np.testing.assert_array_equal(array, loaded[path])
    assert int(state.step) == 0
    assert jax.random.key_data(state.rng).tolist() == jax.random.key_data(jax.random.key(1)).tolist()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"init_head": "exact"}, r"params/head/kernel is \(8, 3\); need \(8, 4\): 3 classes instead of 4"),
        ({"init_stem": "exact"}, "3 input channels instead of 1; stem 'mean' averages them"),
        ({"init_head": "nwe"}, "unknown init_head 'nwe'; did you mean 'new'"),
        ({"model": ModelSpec("resnet32_cifar")}, "source .resnet20_cifar. cannot start resnet32_cifar: .* missing"),
        ({"optim": OptimConfig(freeze=("stm",))}, "freeze 'stm' names no parameter; did you mean 'stem'"),
        ({"init_from": "nowhere"}, "nowhere is not a run directory"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(place, tmp_path, changes, why):
    with pytest.raises(UsageError, match=f"(?s){why}"):
        fit(_tuning(place, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_as_many_classes_of_other_names_are_other_classes(place, tmp_path):
    source = _images(tmp_path / "other.npz", 3, ["a", "x", "c"])
    config = _tuning(place, data=DataConfig(source, val_fraction=0.0), init_head="exact", init_stem="exact")
    with pytest.raises(UsageError, match="other classes: class 1 was 'b' and is 'x'; init_head new starts"):
        fit(config, tmp_path / "run")


def test_the_words_need_a_source_and_survive_yaml():
    with pytest.raises(UsageError, match="init_head new needs init_from"):
        RunConfig(init_head="new")
    with pytest.raises(UsageError, match="init_stem mean needs init_from"):
        RunConfig(init_stem="mean")
    optim = OptimConfig(
        agc=0.01, role_rates=(("scalar", 0.1), ("head", 2.0)), layer_decay=0.7, freeze=("stem", "stage[12]")
    )
    config = RunConfig(init_from="runs/digits", init_head="new", init_stem="mean", optim=optim)
    assert parse_config(config_to_yaml(config), where="test") == config


@pytest.mark.slow
def test_re_estimated_statistics_of_a_run_are_those_of_its_plain_training_images(place):
    """All 64 of them, in batches of 16: the first normalization's statistics by hand; `eval` uses the same."""
    run_dir = place / "other"
    config = RunConfig(
        model=NETWORK,
        data=DataConfig(f"npz:{place / 'source.npz'}", val_fraction=0.0, augment=("random_crop(2)", "flip")),
        train=TrainConfig(batch_size=16),
    )
    write_run(run_dir, config)
    trained = load_run(run_dir)
    measured = reestimate_run(trained, 4)
    with np.load(place / "source.npz") as data:
        x = (data["x_train"] / 255 - np.array(trained.card.mean)) / np.array(trained.card.std)
    kernel = np.asarray(trained.variables["params"]["stem"]["conv"]["kernel"], np.float64)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    conv = sum(padded[:, i : i + 8, j : j + 8] @ kernel[i, j] for i in range(3) for j in range(3))
    stats = measured.variables["batch_stats"]["stem"]["norm"]
    np.testing.assert_allclose(stats["mean"], conv.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["var"], conv.var((0, 1, 2)), rtol=1e-4)
    reported = eval_command([str(run_dir), "--reestimate", "4"])
    assert reported["loss"] == pytest.approx(evaluate_run(measured).loss)
    with pytest.raises(UsageError, match="has 4 batches of 16 training images; cannot take 5"):
        reestimate_run(trained, 5)
    with pytest.raises(UsageError, match="cannot take 0"):
        reestimate_run(trained, 0)
    imported = dataclasses.replace(trained, card=dataclasses.replace(trained.card, examples={}))
    with pytest.raises(UsageError, match="was imported: it has no training images"):
        reestimate_run(imported, 1)
