"""A run directory that somebody else made: read, and nothing of it run or written through."""

from __future__ import annotations

import json
import os

import pytest

from resnet_jax.errors import DamagedError, RunError, UsageError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.config import RunConfig, config_to_yaml
from resnet_jax.runs.corrupt import read_corrupt
from resnet_jax.runs.directory import DatasetInfo, RunDirectory, default_path
from resnet_jax.runs.links import VARIABLE
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.runs.trained import load_run
from resnet_jax.runtime import imports
from resnet_jax.runtime.files import write_whole
from resnet_jax.runtime.limits import UNPACKED
from tests.tools import write_run

CARD = DatasetInfo(("a", "b"), (8, 8, 1), (0.5,), (0.25,), {"train": 3}, label_counts=(1, 2))


@pytest.fixture
def run(tmp_path):
    found = RunDirectory.open(tmp_path / "run", RunConfig())
    found.write_data(CARD)
    return found


def test_a_run_directorys_configuration_imports_nothing_also_as_a_recipe(run, tmp_path):
    harm = tmp_path / "harm.py"
    harm.write_text(f"import os\nos.mkdir({str(tmp_path / 'harmed')!r})\n")
    text = config_to_yaml(RunConfig()).replace("imports: []", f"imports: [{harm}]")
    run.config.write_text(text)
    assert run.read_config().imports == (str(harm),)
    assert load_recipe(str(run.config)).imports == (str(harm),)
    assert not (tmp_path / "harmed").exists()
    alone = tmp_path / "config.yaml"  # a recipe of the user's own may be called so
    alone.write_text(text)
    load_recipe(str(alone))
    assert (tmp_path / "harmed").exists()
    imports._imported.pop(str(harm.resolve()))  # else worker processes of later tests import it too


def test_a_recipe_that_a_configuration_names_is_not_looked_for(tmp_path):
    harm = tmp_path / "harm.py"
    harm.write_text(f"import os\nos.mkdir({str(tmp_path / 'harmed')!r})\n")
    (tmp_path / "r.yaml").write_text(f"imports: [{harm}]\n")
    path = default_path(RunConfig(recipe=str(tmp_path / "r.yaml")))
    assert (path.parent.name, path.name[:2], len(path.parts)) == ("runs", "r-", 2)
    assert not (tmp_path / "harmed").exists()
    for name in ("../../x", "/", "..", "a/b", ""):
        path = default_path(RunConfig(recipe=name))
        assert (path.parts[0], len(path.parts)) == ("runs", 2)
    assert str(default_path(load_recipe("digits"))) == os.path.join("runs", "digits")


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", "tensorboard", "a/b/c"])
def test_nothing_is_written_through_a_link_that_leads_out(run, tmp_path, name, monkeypatch):
    outside = tmp_path / "photos"
    outside.mkdir()
    link = run.path / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    with pytest.raises(UsageError, match=rf"{name} is a link to {outside}, outside of the run directory"):
        RunDirectory.open(run.path, RunConfig())
    RunDirectory.existing(run.path).read_config()  # reading harms nobody
    monkeypatch.setenv(VARIABLE, "follow")
    RunDirectory.open(run.path, RunConfig())


def test_links_within_and_to_the_directory_itself_are_the_users_own(run, tmp_path):
    (run.path / "newest").symlink_to("config.yaml")
    (tmp_path / "link").symlink_to(run.path)
    RunDirectory.open(tmp_path / "link", RunConfig())


def test_a_partial_file_that_is_a_link_is_not_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "a.tmp").symlink_to(victim)
    write_whole(tmp_path / "a", "new")
    assert ((tmp_path / "a").read_text(), victim.read_text()) == ("new", "mine")


@pytest.mark.parametrize("sides", ['["x"]', "[8, 99999999999, 1]", "[]", "[0, 8, 1]"])
def test_sides_of_images_that_there_are_not(run, sides):
    text = json.dumps(json.loads(run.data.read_text()))
    run.data.write_text(text.replace("[8, 8, 1]", sides))
    run.kept.forget()
    with pytest.raises(DamagedError, match=f"{run.data} is damaged.*image_shape"):
        run.read_data()


def test_a_line_of_corrupt_jsonl_that_is_none_is_named(run):
    run.corrupt.write_text('{"split": "train", "index": 1, "where": "a", "reason": "b"}\n{"split": "train"')
    assert [entry.index for entry in read_corrupt(run.corrupt)] == [1], "a last line that was cut off is left out"
    for wrong in ("3", '{"split": "train"}', "[]", "nothing", '{"split": 1, "index": 1, "where": "a", "reason": "b"}'):
        run.corrupt.write_text(f"{wrong}\n")
        with pytest.raises(DamagedError, match="line 1 cannot be read"):
            read_corrupt(run.corrupt)


def test_a_network_far_larger_than_its_checkpoint_is_not_loaded(tmp_path, monkeypatch):
    """What a checkpoint says is there and is not would be made of zeros."""
    config = RunConfig(model=ModelSpec("resnet20_cifar", stage_sizes=(1,), widths=(4,)))
    path = tmp_path / "small"
    write_run(path, config)
    load_run(path)
    monkeypatch.setenv(UNPACKED.variable, "1")
    (path / ".written.json").unlink(missing_ok=True)  # whoever makes such a run does not say that it was changed
    text = (path / "config.yaml").read_text()
    wide = text.replace("widths:\n  - 4", "widths:\n  - 3000")
    assert wide != text
    (path / "config.yaml").write_text(wide)
    with pytest.raises(RunError, match=r"its checkpoint \w+ is too small for its network: its .* bytes unpack to"):
        load_run(path)
    (path / "config.yaml").write_text(text.replace("stage_sizes:\n  - 1", "stage_sizes:\n  - 100000"))
    with pytest.raises(RunError, match="a network of 100,000 blocks; at most 20,000 are read"):
        load_run(path)
