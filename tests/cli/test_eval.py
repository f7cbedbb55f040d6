"""``eval``, ``predict``, ``depth`` and resume on other images than the run's own: what is said, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.analysis import AnalysisConfig, find_target
from resnet_jax.runs.build import build_model
from resnet_jax.runs.config import DataConfig, RunConfig, TrainConfig
from resnet_jax.runs.directory import DatasetInfo, RunDirectory
from resnet_jax.runs.evaluate import evaluate_run, load_run, reestimate_run
from resnet_jax.runs.images import OtherImages
from tests.cli.conftest import last_json
from tests.tools import random_variables, write_by_hand, write_network, write_run

NAMES = ("cat", "dog", "owl")
TINY = ModelSpec("resnet20_cifar", stage_sizes=(1,), widths=(4,))


def scenes(count=60, size=8):
    """Images that get brighter with their class, so that each is another one."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    images = rng.normal(60 + 60 * labels[:, None, None, None], 15, (count, 8, 8, 3)).clip(0, 255).astype(np.uint8)
    return images.repeat(size // 8, 1).repeat(size // 8, 2), labels


def save(path, names=NAMES, *, order=None, **shape):
    images, labels = scenes(**shape)
    if order is not None:
        labels = np.argsort(order)[labels]
        names = [names[index] for index in order]
    np.savez(path, x=images, y=labels, class_names=np.array(names))
    return f"npz:{path}"


def pictures(folder, name_of, only=(0, 1, 2), size=8):
    images, labels = scenes(size=size)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        if label in only:
            (folder / name_of(label)).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name_of(label) / f"{index:03}.png"), image[..., ::-1])
    return f"folder:{folder}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run of a tiny network with weights from nowhere, its data, and the same network as if it were imported."""
    folder = tmp_path_factory.mktemp("eval")
    config = RunConfig(model=TINY, data=DataConfig(save(folder / "own.npz")), train=TrainConfig(batch_size=16))
    write_run(folder / "run", config)
    shutil.copytree(folder / "run", folder / "net")
    card = RunDirectory(folder / "net").read_data()
    card = dataclasses.replace(card, examples={}, labels="")
    write_by_hand(folder / "net" / "data.json", json.dumps(dataclasses.asdict(card)))
    return folder


@pytest.fixture(scope="module")
def all_sixty(place):
    """How many of all images the network gets right, and the logits."""
    return evaluate_run(load_run(place / "net"), source=f"npz:{place / 'own.npz'}", logits=True)


@pytest.mark.slow
def test_eval_brings_images_to_the_size_of_the_network_as_predict_does(place, all_sixty, tmp_path, command):
    """It took them as they were stored: CIFAR's at 64x64 gave 20.9 % where predict found 934 of 1,017."""
    large = save(tmp_path / "large.npz", size=16)
    status, out, err = command("eval", place / "net", "--data.source", large, "--logits", tmp_path / "a.npy", "--json")
    assert status == 0, err
    assert last_json(out)["correct"] == all_sixty.correct  # areas are averaged: the very pixels come back
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), all_sixty.logits, rtol=1e-5)
    assert "images 16x16 brought to 8x8" in err.splitlines()
    assert last_json(out)["said"] == ["images 16x16 brought to 8x8"]
    source = pictures(tmp_path / "large", lambda label: NAMES[label], size=16)
    files = sorted((tmp_path / "large").glob("*/*.png"))
    _, out, _ = command("eval", place / "net", "--data.source", source, "--json")
    right = last_json(out)["correct"]
    _, out, _ = command("predict", place / "net", *files, "--json")
    assert right == all_sixty.correct == sum(p["classes"][0] == p["image"].split("/")[-2] for p in last_json(out))
    status, out, _ = command("eval", place / "net", "--data.source", large, "--data.image-size", 16, "--json")
    assert (status, last_json(out)["image_shape"], last_json(out)["said"]) == (0, [16, 16, 3], [])


@pytest.mark.parametrize("of", ["net", pytest.param("run", marks=pytest.mark.slow)])
def test_classes_go_by_name(place, all_sixty, tmp_path, command, of):
    """Position gave 0 of 293 for three of ten classes."""
    counted = last_json_of(command, "eval", place / of, "--data.source", save(tmp_path / "p.npz", order=(2, 0, 1)))
    assert (counted["correct"], counted["loss"]) == (all_sixty.correct, pytest.approx(all_sixty.loss))
    assert "matched by name" in counted["said"][0]
    for name_of in (lambda label: NAMES[label], str, lambda label: f"{label:02}"):
        folder = pictures(tmp_path / name_of(1), name_of)
        found = last_json_of(command, "eval", place / of, "--data.source", folder)
        assert found["loss"] == pytest.approx(all_sixty.loss)
    folder = pictures(tmp_path / "part", lambda label: NAMES[label], only=(0, 2))
    part = last_json_of(command, "eval", place / of, "--data.source", folder)
    matrix = np.asarray(all_sixty.confusion)
    assert (part["correct"], part["examples"]) == (matrix[0, 0] + matrix[2, 2], 40)
    assert (part["classes"], part["outputs"]) == (2, 3)
    assert part["said"][0].startswith("2 of the network's 3 classes: cat, owl")
    wrong = pictures(tmp_path / "wrong", lambda label: NAMES[label].upper())
    status, _, err = command("eval", place / of, "--data.source", wrong)
    assert (status, "no class 'CAT' (nearest: 'cat') and 2 more" in err) == (2, True)
    (tmp_path / "names.txt").write_text("CAT\nDOG\nOWL\n")
    given = ("--class-names", tmp_path / "names.txt")
    assert last_json_of(command, "eval", place / of, "--data.source", wrong, *given)["correct"] == all_sixty.correct


def last_json_of(command, *argv):
    status, out, err = command(*argv, "--json")
    assert status == 0, err
    return last_json(out)


@pytest.mark.slow
def test_the_run_s_own_data_elsewhere_is_divided_as_the_run_divided_it(place, tmp_path, command):
    """`--data.source NEW` said "test accuracy" of all images, those trained on included."""
    own = last_json_of(command, "eval", place / "run")
    moved = save(tmp_path / "moved.npz")
    for option in ("--data.moved-to", "--data.source"):
        for split, count in (("test", 12), ("train", 42), ("val", 6)):
            status, out, err = command("eval", place / "run", option, moved, "--split", split, "--json")
            found = last_json(out)
            assert (status, found["examples"], found["own_division"], found["source"]) == (0, count, True, moved)
            assert f"{split} accuracy" in err
        assert moved in found["said"][0]
    assert last_json_of(command, "eval", place / "run", "--data.source", moved)["loss"] == own["loss"]
    other = save(tmp_path / "other.npz", count=63)
    for split in ("test", "train"):
        status, out, err = command("eval", place / "run", "--data.source", other, "--split", split, "--json")
        assert f"over all 63 images of {other}" in err
        assert f"{split} accuracy" not in err
        assert (last_json(out)["split"], last_json(out)["own_division"]) == ("all", False)
    status, _, err = command("eval", place / "run", "--data.moved-to", other)
    assert (status, "is not what npz:" in err) == (1, True)
    status, _, err = command("eval", place / "run", "--data.moved-to", moved, "--data.source", moved)
    assert (status, "not both" in err) == (2, True)


@pytest.fixture
def lost(place, tmp_path):
    """The run with its data gone, and where that is now."""
    shutil.copytree(place / "run", tmp_path / "lost")
    config = tmp_path / "lost" / "config.yaml"
    write_by_hand(config, config.read_text().replace(str(place / "own.npz"), str(tmp_path / "gone.npz")))
    return tmp_path / "lost", save(tmp_path / "here.npz")


@pytest.mark.slow
def test_eval_reestimate_and_depth_find_data_that_moved(place, lost, command):
    run, here = lost
    status, _, err = command("eval", run)
    assert (status, "--data.moved-to" in err) == (1, True)
    expected = evaluate_run(reestimate_run(load_run(place / "run"), 2)).loss
    for option in ("--data.moved-to", "--data.source"):
        found = last_json_of(command, "eval", run, option, here, "--reestimate", 2)
        assert found["loss"] == pytest.approx(expected)
    own = find_target(str(place / "run"), AnalysisConfig(batch=8))
    for where in ({"moved_to": here}, {"source": here}):
        subject = find_target(str(run), AnalysisConfig(batch=8, data=OtherImages(**where)))
        np.testing.assert_array_equal(subject.images, own.images)
        np.testing.assert_array_equal(subject.labels, own.labels)
        assert "8 of the run's own training images" in subject.facts["images"]
        assert "npz:here.npz" in subject.facts["images"]
        assert str(run.parent) not in subject.facts["images"], "a report may travel"
    assert "sgd" in find_target(str(run), AnalysisConfig(batch=8, data=OtherImages(source="random"))).facts["updates"]


def test_depth_takes_size_classes_and_normalization_as_eval_does(place, tmp_path):
    plain = find_target(str(place / "net"), AnalysisConfig(batch=60, data=OtherImages(source=save(tmp_path / "a.npz"))))
    other = save(tmp_path / "b.npz", size=16, order=(2, 0, 1))
    subject = find_target(str(place / "net"), AnalysisConfig(batch=60, data=OtherImages(source=other)))
    np.testing.assert_array_equal(subject.images, plain.images)
    np.testing.assert_array_equal(subject.labels, plain.labels)
    assert "images 16x16 brought to 8x8" in subject.facts["images"]
    with pytest.raises(ValueError, match=r"data.mean 0.4824"):
        OtherImages(source=other, mean=(123.0,) * 3, std=(58.0,) * 3)
    for outputs in (0, 1):
        with pytest.raises(ValueError, match=rf"has {outputs} outputs: the loss"):
            find_target("resnet20_cifar", AnalysisConfig(batch=2, model=TINY.replace(num_classes=outputs)))


@pytest.mark.parametrize("verb", ["eval", "predict"])
@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ("123.7", "58.4", "data.mean 0.4851"),
        ("nan", "0.2", "[0, 1]"),
        ("0.5", "0", "std must be positive"),
        ("-1", "0.2", "[0, 1]"),
    ],
)
def test_normalization_off_the_scale_is_refused(place, tmp_path, command, verb, mean, std, message):
    what = ["--data.source", f"npz:{place / 'own.npz'}"] if verb == "eval" else [tmp_path / "x.png"]
    status, _, err = command(verb, place / "net", *what, "--data.mean", *[mean] * 3, "--data.std", *[std] * 3)
    assert status == 2
    assert message in err


def test_predict_prints_what_it_can_and_names_what_it_cannot(place, tmp_path, command):
    pictures(tmp_path, lambda label: NAMES[label])
    files = sorted((tmp_path / "cat").iterdir())[:2]
    (tmp_path / "bad.png").write_text("no image")
    argv = ("predict", place / "net", files[0], tmp_path / "bad.png", files[1])
    status, out, err = command(*argv)
    assert status == 1
    assert [line.partition(": ")[0] for line in out.splitlines()] == [str(files[0]), str(files[1])]
    assert f"error: {tmp_path / 'bad.png'}: " in err
    assert "1 of 3 files could not be read: " in err.splitlines()[-1]
    status, out, _ = command(*argv, "--json")
    found = last_json(out)
    assert (status, [sorted(p) for p in found]) == (1, [["classes", "image", "probabilities"], ["error", "image"],
                                                        ["classes", "image", "probabilities"]])  # fmt: skip


def test_predict_takes_folders_patterns_and_lists_and_writes_files(place, tmp_path, command, monkeypatch):
    pictures(tmp_path / "shots", lambda label: NAMES[label])
    (tmp_path / "shots" / "cat" / "notes.txt").write_text("none")
    monkeypatch.chdir(tmp_path)
    cats, everything = sorted(Path("shots/cat").glob("*.png")), sorted(Path("shots").rglob("*.png"))
    status, out, err = command("predict", place / "net", "shots/cat", "--json")
    by_folder = last_json(out)
    assert (status, [row["image"] for row in by_folder]) == (0, [str(path) for path in cats])
    assert "1 files skipped because they are not images: 1 .txt" in err
    listed = b"".join(os.fsencode(path) + b"\n" for path in [*everything, "gone.png"])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(listed)))
    what = ("shots/c*/*.png", "-", "x*.png", "--out", "found.csv", "--top", "1")
    status, out, err = command("predict", place / "net", *what)
    assert (status, out) == (1, "")
    with open("found.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", "class_1", "probability_1", "error"]
    assert [row[0] for row in rows] == [*map(str, cats), *map(str, everything), "gone.png", "x*.png"]
    assert [row[1] for row in rows[: len(cats)]] == [row["classes"][0] for row in by_folder]
    assert [row[3] for row in rows[-2:]] == [
        "cannot read gone.png: No such file or directory", "x*.png: no file matches this pattern"
    ]  # fmt: skip
    assert f"2 of {len(rows)} files could not be read: gone.png, x*.png" in err
    status, out, _ = command("predict", place / "net", cats[0], "--out", "found.jsonl", "--batch-size", "1", "--json")
    assert last_json(out) == {"images": 1, "failed": 0, "out": "found.jsonl"}
    (row,) = [json.loads(line) for line in Path("found.jsonl").read_text().splitlines()]
    assert (row["image"], row["classes"]) == (str(cats[0]), by_folder[0]["classes"])
    status, _, err = command("predict", place / "net", cats[0], "--out", "found.txt")
    assert (status, "written as .csv or .jsonl" in err) == (2, True)
    status, _, err = command("predict", place / "net", cats[0], "--batch-size", "0")
    assert (status, "buckets must be sizes of batches" in err) == (2, True)


@pytest.fixture(scope="module")
def one_output(tmp_path_factory):
    """An imported network that says yes or no, without names for it."""
    path = tmp_path_factory.mktemp("one") / "net"
    config = RunConfig(model=TINY.replace(num_classes=1))
    card = DatasetInfo(("0",), (8, 8, 3), (0.5,) * 3, (0.25,) * 3, {})
    model = build_model(config, card)
    write_network(path, config, card, random_variables(model, (8, 8, 3)))
    return path


def test_one_output_is_evaluated_as_yes_or_no(one_output, tmp_path, command):
    images, labels = scenes()
    np.savez(tmp_path / "two.npz", x=images, y=labels % 2, class_names=np.array(["ill", "healthy"]))
    argv = ("eval", one_output, "--data.source", f"npz:{tmp_path / 'two.npz'}", "--logits", tmp_path / "z.npy")
    status, _, err = command(*argv)
    assert (status, "one output, a yes or no" in err) == (2, True)
    (tmp_path / "names.txt").write_text("healthy\nill\n")
    found = last_json_of(command, *argv, "--class-names", tmp_path / "names.txt")
    z, yes = np.load(tmp_path / "z.npy")[:, 0], (labels % 2) == 0
    assert found["correct"] == ((z > 0) == yes).sum()
    assert found["loss"] == pytest.approx(np.logaddexp(0, np.where(yes, -z, z)).mean(), rel=1e-5)
    # names kept by the import do as well
    shutil.copytree(one_output, tmp_path / "named")
    card = json.loads((one_output / "data.json").read_text()) | {"class_names": ["healthy", "ill"]}
    write_by_hand(tmp_path / "named" / "data.json", json.dumps(card))
    again = last_json_of(command, "eval", tmp_path / "named", *argv[2:])
    assert again["correct"] == found["correct"]


@pytest.mark.slow
def test_a_run_goes_on_with_data_that_moved(tmp_path, command):
    """Two steps, then the data goes elsewhere, then the rest: the same parameters as without the move."""
    source = save(tmp_path / "old.npz")
    options = ["--model.stage-sizes", 1, "--model.widths", 4, "--train.batch-size", 16, "--train.length", "2 epochs",
               "--optim.schedule.warmup", "None", "--data.source", source]  # fmt: skip
    whole = last_json_of(command, "train", "digits", *options, "--run-dir", tmp_path / "whole")
    run = tmp_path / "run"
    shutil.copytree(tmp_path / "whole", run)
    (run / "summary.json").unlink()
    (tmp_path / "old.npz").rename(tmp_path / "new.npz")
    moved = f"npz:{tmp_path / 'new.npz'}"
    config = (run / "config.yaml").read_text()

    status, _, err = command("train", "digits", *options, "--run-dir", run)
    assert (status, "--data.moved-to" in err) == (1, True)
    status, _, err = command("train", "digits", *options[:-1], moved, "--run-dir", run)
    assert (status, f"set data.source to {source} and data.moved_to to {moved}" in err) == (1, True)
    status, out, err = command("train", "digits", *options, "--data.moved-to", moved, "--run-dir", run, "--json")
    assert status == 0, err
    assert last_json(out)["params_digest"] == whole["params_digest"]
    assert last_json(out)["test_correct"] == whole["test_correct"]
    assert (run / "config.yaml").read_text() == config
    assert f"{moved}: 42 train" in err
    other = save(tmp_path / "other.npz", count=63)
    (run / "summary.json").unlink()
    status, _, err = command("train", "digits", *options, "--data.moved-to", other, "--run-dir", run)
    assert (status, "data is not what it was" in err) == (1, True)
    status, _, err = command("train", "digits", *options, "--data.moved-to", moved, "--run-dir", tmp_path / "new")
    assert (status, "there is no run in" in err) == (2, True)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_eval_averages_over_views(place, command):
    source = f"npz:{place / 'own.npz'}"
    status, out, err = command("eval", place / "net", "--data.source", source, "--views", "ten_crop", "--json")
    assert status == 0, err
    found = last_json(out)
    assert (found["views"], found["examples"]) == ("ten_crop", 60)
    assert "averaged over 10 views: crops of 8 of 9 pixels, and their mirror images" in found["said"]
