"""``--imports``: a norm and an observer from a file, by the command line and a recipe; a run directory runs no code."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest

from resnet_jax.models.norms import NORMS
from resnet_jax.report.trackers import OBSERVERS
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.runs.trained import load_run
from resnet_jax.runtime import imports
from tests.cli.conftest import OPTIONS, last_json

MINE = """
import jax, jax.numpy as jnp
from pathlib import Path
from flax import linen as nn
from resnet_jax.models import register_norm
from resnet_jax.report.trackers import register_observer
from resnet_jax.training.observers import Observer


class Half(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return x * self.param("scale", nn.initializers.constant(0.5), (x.shape[-1],), jnp.float32)[None, None, None]


@register_norm("half")
def half(config, place):
    return Half(name=place.name)


@register_observer("count_epochs")
class CountEpochs(Observer):
    def on_end(self, summary):
        Path(__file__).with_suffix(".told").write_text(str(summary["steps"]))
"""


@pytest.fixture
def forgotten():
    """Forget what the file registers, as another process would."""

    def forget():
        NORMS.pop("half", None)
        OBSERVERS.pop("count_epochs", None)
        for name in [name for name in imports._imported if "mine" in name]:
            imports._imported.pop(name)
        for name in [name for name in sys.modules if name.startswith("mine_")]:
            del sys.modules[name]

    yield forget
    forget()


@pytest.mark.slow
def test_what_a_file_registers_can_be_trained_and_is_not_imported_unasked(
    stripes, tmp_path, command, forgotten, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    run, mine = tmp_path / "run", str(tmp_path / "mine.py")
    words = ("train", "digits", "--data.source", f"npz:{stripes}", "--run-dir", run, *OPTIONS, "--model.norm", "half")
    words = (*words, "--train.observers", "count_epochs")
    status, _, err = command(*words)
    assert status == 2
    assert "unknown model.norm 'half'" in err
    status, _, err = command("--imports", "mine.py", "--json", *words)
    assert status == 0, err
    assert int((tmp_path / "mine.told").read_text()) > 0
    config = load_run(run).config
    assert (config.imports, config.model.changes["norm"]) == ((mine,), "half")
    image = tmp_path / "a.png"
    cv2.imwrite(str(image), np.zeros((12, 12, 3), np.uint8))

    forgotten()
    status, _, err = command("predict", run, image)
    assert status == 2
    assert "unknown model.norm 'half'" in err
    assert f"not run automatically: if you trust it, add --imports {mine}" in err
    assert "half" not in NORMS
    status, out, err = command("predict", run, "--imports=mine.py", image, "--json")
    assert status == 0, err
    assert len(last_json(out)) == 1
    status, _, err = command(*words, "--imports", mine)  # finished: the same run, whatever is imported
    assert status == 0, err


def test_a_recipe_that_is_named_is_imported_with_what_it_names(tmp_path, command, forgotten):
    (tmp_path / "mine.py").write_text(MINE)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("imports: [mine.py]\nmodel: {name: resnet20_cifar, norm: half}\n")
    config = load_recipe(str(recipe))
    assert (config.imports, config.model.changes["norm"]) == ((str(tmp_path / "mine.py"),), "half")
    recipe.write_text("imports: mine.py\n")
    with pytest.raises(Exception, match=r"imports is a list of modules and of files that end with .py, got 'mine.py'"):
        load_recipe(str(recipe))
    recipe.write_text("imports: [none.py]\n")
    with pytest.raises(Exception, match=r"r.yaml: importing .* there is no file .*none.py"):
        load_recipe(str(recipe))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["models", "--imports"], "--imports takes a module or the path"),
        (["models", "--imports", "--json"], "--imports takes a module or the path"),
        (["models", "--imports", "nowhere.py"], "there is no file"),
        (["models", "--imports", "no_such_module"], "a file is named with its .py"),
    ],
)
def test_what_cannot_be_imported_is_refused(words, message, command):
    status, _, err = command(*words)
    assert status == 2
    assert message in err


def test_a_file_that_was_imported_otherwise_is_not_imported_again(tmp_path, monkeypatch):
    (tmp_path / "otherwise.py").write_text("import json\n")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("otherwise")
    try:
        assert imports.is_imported(str(tmp_path / "otherwise.py"))
        assert imports.is_imported("otherwise")
    finally:
        del sys.modules["otherwise"]
    assert not imports.is_imported(str(tmp_path / "otherwise.py"))


def test_imports_change_nothing_of_the_result():
    from resnet_jax.runs.config import differences

    assert differences(RunConfig(), RunConfig(imports=("mine.py",))) == []


@pytest.mark.slow
def test_another_process_imports_what_it_is_told_to(tmp_path):
    (tmp_path / "mine.py").write_text(MINE.replace("import register_norm", "import register_model, register_norm") + (
        "\n@register_model('net_of_mine', image_size=8, source='this test')\n"
        "def net():\n    from resnet_jax.models import ResNetConfig\n"
        "    return ResNetConfig((1,), (8,), stem='cifar', norm='half')\n"
    ))  # fmt: skip
    words = [sys.executable, "-m", "resnet_jax", "models", "--imports", str(tmp_path / "mine.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "net_of_mine" in done.stdout
