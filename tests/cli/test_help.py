"""Help, versions and unknown names: what a person types who does not know the command line yet."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from resnet_jax.cli import ablate, bench, data, depth, eval, models, plan, predict, train, weights
from resnet_jax.cli.options import option_flags
from resnet_jax.models import list_models
from resnet_jax.runs.recipes import list_recipes

GROUPS = {"data": data.VERBS, "depth": depth.VERBS, "bench": bench.VERBS, "weights": weights.VERBS}


def words(text):
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("ask", ["--help", "-h", "help"])
def test_the_help_of_a_verb_with_verbs_has_a_line_for_each(command, group, ask):
    status, out, err = command(*(["help", group] if ask == "help" else [group, ask]))
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines() if line.startswith("  ")]
    assert [line[0] for line in lines] == list(GROUPS[group])
    assert all(len(line) > 3 for line in lines)


@pytest.mark.parametrize("group", GROUPS)
def test_such_a_verb_alone_is_wrong_usage(command, group):
    for argv in ([group], [group, "--json"], [group, "--zzz"]):
        status, out, err = command(*argv)
        assert (status, out) == (2, "")
        assert "name what to" in err


VERBS = [
    [verb]
    for verb in (
        "train",
        "finetune",
        "ablate",
        "search",
        "lr-range",
        "eval",
        "predict",
        "export",
        "compare",
        "recipes",
        "checkpoints",
        "events",
        "models",
        "plan",
    )
]
VERBS += [[group, verb] for group, verbs in GROUPS.items() for verb in verbs]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_explains_itself(command, verb):
    status, out, err = command("help", *verb)  # test_quick asks each with --help
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: resnet-jax {' '.join(verb)}")
    assert "--json" in out


def test_help_alone_lists_the_verbs(command):
    said = {command(*argv)[:2] for argv in ([], ["help"], ["-h"], ["--help"], ["--debug"], ["--json"])}
    assert len(said) == 1
    assert next(iter(said))[0] == 0


@pytest.mark.parametrize("argv", [["--version"], ["models", "--version"], ["train", "digits", "--version"]])
def test_the_version_wherever_it_is_asked_for(command, argv):
    status, out, _ = command(*argv)
    assert (status, out.strip()[0].isdigit()) == (0, True)


def test_json_may_stand_before_the_verb(command):
    assert command("--json", "models", "resnet20_cifar")[1] == command("models", "resnet20_cifar", "--json")[1]


@pytest.mark.parametrize("verb", ["train", "ablate"])
def test_help_says_whose_defaults_it_shows(command, verb):
    general, digits = words(command(verb, "--help")[1]), words(command(verb, "digits", "--help")[1])
    assert "--train.length STR How long to train: '10 epochs' (passes over the training set)" in general
    assert f"each recipe has its own: resnet-jax {verb} RECIPE --help" in general
    assert "schedule spans this length. (default: '15 epochs')" in digits
    assert "The defaults shown are those of the recipe digits" in digits
    assert command(verb, "--help", "digits")[1] == command(verb, "digits", "--help")[1]


@pytest.mark.parametrize(
    ("argv", "near"),
    [
        (["train", "digits", "--lr", "1"], ["--optim.learning-rate"]),
        (["train", "digits", "--train.lenth", "1"], ["--train.length"]),
        (["train", "digits", "--model.nrm=none"], ["--model.norm"]),
        (["train", "digits", "--data.augmnt", "flip"], ["--data.augment"]),
        (["ablate", "digits", "--model.nrm", "batch,none"], ["--model.norm"]),
        (["eval", "x", "--splt", "val"], ["--split"]),
    ],
)
def test_an_unknown_option_has_three_near_ones_and_the_way_to_all(command, argv, near):
    status, out, err = command(*argv)
    assert (status, out) == (2, "")
    assert all(name in err for name in near)
    assert err.split("did you mean ")[1].split("?")[0].count("--") == 3
    assert "--help lists all" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("argv", "near"),
    [
        (["depth", "check", "resnet05"], "resnet50"),
        (["depth", "profile", "ResNet20"], "resnet20_cifar"),
        (["plan", "resnt20", "--batch", "2"], "resnet20_cifar"),
        (["train", "digits", "--model.name", "wide_resnet50"], "wide_resnet50_2"),
    ],
)
def test_an_unknown_network_has_three_near_ones_and_the_way_to_all(command, argv, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = command(*argv)
    assert status == 2
    assert near in err
    assert sum(f"'{name}'" in err for name in list_models()) == 3
    assert "`resnet-jax models` lists" in err


def test_an_unknown_recipe_has_the_nearest_three(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("recipe: x")
    said = command("train", "digist")[2]
    assert sum(f"'{name}'" in said for name in list_recipes()) == 3
    assert "did you mean 'digits'" in said
    assert f"`resnet-jax recipes` lists all {len(list_recipes())}" in said
    assert "must end with .yaml" in command("train", "mine.txt")[2]


def test_the_recipe_is_the_word_after_the_verb(command):
    status, _, err = command("train", "digits", "--recipe", "cifar10-resnet20")
    assert status == 2
    assert "the recipe is the word after the verb" in err


@pytest.mark.parametrize(
    ("options", "some"),
    [
        (train.TrainOptions, ["--run-dir", "--seed", "--model.norm", "--optim.schedule.kind", "--json"]),
        (ablate.AblateOptions, ["--seeds", "--cells", "--data.source"]),
        (eval.EvalOptions, ["--split", "--data.source"]),
        (predict.PredictOptions, ["--top"]),
        (models.ModelsOptions, ["--json"]),
        (plan.PlanOptions, ["--batch", "--model.dtype"]),
        (weights.ImportOptions, ["--model.name", "--out"]),
    ],
)
def test_the_options_that_are_known_are_those_that_help_shows(command, options, some):
    verb = {"Import": ["weights", "import"]}.get(name := options.__name__.removesuffix("Options"), [name.lower()])
    shown = {word.rstrip(",") for word in command(*verb, "--help")[1].split() if word.startswith("--")}
    known = set(option_flags(options))
    assert {*some} <= known
    assert known - shown == set()


def python(*argv, **environment):
    return subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.mark.slow
@pytest.mark.parametrize("module", ["resnet_jax", "resnet_jax.cli"])
def test_the_package_is_a_program(module):
    done = python("-m", module, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()[0].isdigit()
    assert python("-m", module, "trian").returncode == 2


def test_lines_are_whole_where_there_is_no_terminal(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = command("models", "resnet20_cifar")
    header, line = out.splitlines()
    assert line.split() == ["resnet20_cifar", "269,722", "1,376", "40,551,040", "32x32x3"]
    assert len(header) > 70
