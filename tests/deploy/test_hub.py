"""Published weights by name: over HTTP on this machine, from a file, from a folder; never another file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from resnet_jax.deploy.download import Patience
from resnet_jax.deploy.hub import RECORD, fetch_weights, run_of, run_path
from resnet_jax.deploy.pretrained import create_model, load_weights
from resnet_jax.errors import DataError, UsageError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.evaluate import load_run
from resnet_jax.weights import from_variables
from resnet_jax.weights.files import save_safetensors
from resnet_jax.weights.published import Published, find_published, list_weights, published
from tests.deploy.servers import cut, good, sent_on, serving
from tests.tools import random_variables

QUICK = Patience(silence=0.5, whole=5.0, attempts=1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small network's file, as somebody would publish it, and its row."""
    row = find_published("resnet20_cifar.akamaster")
    row = dataclasses.replace(row, choices={"stage_sizes": (1,), "widths": (8,)}, name="tiny", url="")
    model = ModelSpec(row.model, **row.choices).config()
    from resnet_jax.models.resnet import ResNet

    variables = random_variables(ResNet(model), (32, 32, 3))
    path = tmp_path_factory.mktemp("published") / "tiny.safetensors"
    save_safetensors(from_variables(variables, ResNet(model), "cifar"), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path, dataclasses.replace(row, sha256=digest), variables


def at(row: Published, url: str, **changes) -> Published:
    return dataclasses.replace(row, url=f"{url}/tiny.safetensors", **changes)


def test_every_row_of_the_table_is_a_network_of_ours():
    rows = published()
    assert len(rows) == 187
    for row in rows.values():
        config = ModelSpec(row.model, **row.choices).config()
        assert (
            config.num_classes
            == {"imagenet-1k": 1000, "imagenet-21k": 21843, "cifar10": 10, "cifar100": 100}[row.classes]
        )
        assert row.resize >= row.image_size
        assert len(row.mean) == len(row.std) == 3
        assert row.sha256 == "" or len(row.sha256) in (8, 64)
        assert row.sha256[:8] in row.url
        assert row.place.startswith("https://")
        assert row.top1 is None or 60 < row.top1 < 95
    assert {row.licence for row in rows.values()} == {"apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-nc-4.0"}


def test_names():
    assert find_published("resnet50.imagenet1k_v2").resize == 232
    assert find_published("resnet50.a1_in1k").on_hub == (
        "https://huggingface.co/timm/resnet50.a1_in1k/resolve/main/model.safetensors"
    )
    with pytest.raises(UsageError, match=r"weights of wide_resnet50_2: wide_resnet50_2\.imagenet1k_v1, "):
        find_published("wide_resnet50_2")
    with pytest.raises(UsageError, match=r"unknown weights 'resnet50\.b1_in1k'; did you mean"):
        find_published("resnet50.b1_in1k")
    assert {row.licence for row in list_weights("cc-by-nc*")} == {"cc-by-nc-4.0"}


def test_a_file_is_fetched_once_and_compared_before_every_use(weights, tmp_path):
    path, row, _ = weights
    with serving({"/tiny.safetensors": good(path.read_bytes())}) as server:
        here = at(row, server.url)
        first = fetch_weights(here, cache=tmp_path, patience=QUICK)
        assert first.checked == "SHA-256 compared"
        assert fetch_weights(here, cache=tmp_path) == first
        assert len(server.asked) == 1
        first.path.write_bytes(path.read_bytes()[:-1] + b"\0")  # damaged in the cache
        assert fetch_weights(here, cache=tmp_path).sha256 == row.sha256
        assert len(server.asked) == 2
        (first.path.parent / RECORD).write_text("{}")
        assert fetch_weights(here, cache=tmp_path).sha256 == row.sha256


@pytest.mark.parametrize("digits", [64, 8])
@pytest.mark.parametrize("how", ["altered", "cut"])
def test_another_file_is_never_kept(weights, tmp_path, how, digits):
    path, row, _ = weights
    data = path.read_bytes()
    answer = good(b"x" + data[1:]) if how == "altered" else cut(data, 100, ranges=False)
    with serving({"/tiny.safetensors": answer}) as server:
        here = at(row, server.url, sha256=row.sha256[:digits])
        with pytest.raises(DataError, match=r"should be(gin with)? |cut after 100"):
            fetch_weights(here, cache=tmp_path, patience=QUICK)
    assert not list((tmp_path / "tiny").iterdir())


def test_the_hub_announces_what_the_file_should_be(weights, tmp_path, monkeypatch):
    """Its resolve address sends on to where files lie, with the checksum; HF_ENDPOINT names a mirror."""
    path, row, _ = weights
    here = dataclasses.replace(row, hub="someone/tiny/model.safetensors", sha256="")
    address = "/someone/tiny/resolve/main/model.safetensors"
    answers = {"/lfs/1": good(path.read_bytes())}
    with serving(answers) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        answers[address] = sent_on("/lfs/1", X_Linked_Etag=f'"{row.sha256}"')
        assert "server's own announcement" in fetch_weights(here, cache=tmp_path / "a", patience=QUICK).checked
        answers[address] = sent_on("/lfs/1", X_Linked_Etag=f'"{"0" * 64}"')
        with pytest.raises(DataError, match="announces SHA-256 000"):
            fetch_weights(here, cache=tmp_path / "b", patience=QUICK)
        answers[address] = sent_on("/lfs/1")
        assert "not compared" in fetch_weights(here, cache=tmp_path / "c", patience=QUICK).checked


def test_from_a_file_or_a_folder_without_a_network(weights, tmp_path):
    path, row, _ = weights
    here = at(row, "https://nowhere.invalid")
    for place in (path, path.parent):
        assert fetch_weights(here, source=place, cache=tmp_path / "cache").sha256 == row.sha256
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(DataError, match=r"not the file of tiny: its SHA-256 is"):
        fetch_weights(here, source=other, cache=tmp_path / "empty")
    with pytest.raises(DataError, match=r"there is no file .*nothing"):
        fetch_weights(here, source=tmp_path / "nothing", cache=tmp_path / "empty")
    with pytest.raises(DataError, match=r"has no file tiny\.safetensors"):
        fetch_weights(here, source=tmp_path / "cache", cache=tmp_path / "empty")
    assert not list((tmp_path / "empty" / "tiny").iterdir())
    hub = tmp_path / "hub" / "someone" / "tiny"
    hub.mkdir(parents=True)
    (hub / "model.safetensors").write_bytes(path.read_bytes())
    of_hub = dataclasses.replace(here, hub="someone/tiny/model.safetensors", sha256="12345678")
    assert "not compared" in fetch_weights(of_hub, source=tmp_path / "hub", cache=tmp_path / "h").checked
    with pytest.raises(UsageError, match="not on the hub: leave via hub out"):
        fetch_weights(here, via="hub")


def test_a_run_directory_of_it_has_classes_and_transforms(weights, tmp_path):
    path, row, variables = weights
    here = at(row, "https://nowhere.invalid", image_size=64, resize=72, interpolation="bicubic")
    run = run_of(here, source=path, cache=tmp_path)
    assert run_of(here, cache=tmp_path) == run
    trained = load_run(run)
    jax.tree.map(np.testing.assert_array_equal, trained.variables, variables)
    assert trained.card.class_names[3] == "cat"
    assert (trained.card.mean, trained.card.std) == (row.mean, row.std)
    geometry = trained.geometry
    assert (geometry.image_size, geometry.shorter_side, geometry.interpolation) == (64, 72, "bicubic")
    assert "licence bsd-2-clause" in (run / "notes.txt").read_text()
    assert [each.name for each in run.parent.iterdir() if each.name.startswith(".")] == []


def test_a_path_stays_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet50.a1_in1k").mkdir()
    for given in (tmp_path, tmp_path / "nothing", (tmp_path / "resnet50.a1_in1k").relative_to(tmp_path)):
        assert run_path(given) == given


def test_a_word_that_is_near_to_a_name_or_a_network_says_what_to_type(tmp_path, monkeypatch):
    from resnet_jax.cli.depth_options import default_directory
    from resnet_jax.cli.named import run_directory

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"did you mean resnet20_cifar\.akamaster"):
        run_directory(Path("resnet20_cifar.akamster"))
    with pytest.raises(UsageError, match=r"resnet18 is a network without weights.*resnet18\."):
        run_directory(Path("resnet18"))
    for given in ("my-run", "runs/resnet18", "."):
        assert run_directory(Path(given)) == Path(given)
    # what is written here must not have the weights' name: a folder goes before them
    assert default_directory("resnet20_cifar.akamaster", "profile") == Path("depth-resnet20_cifar.akamaster/profile")


def test_in_python(weights, tmp_path):
    path, row, variables = weights
    here = at(row, "https://nowhere.invalid")
    model, loaded, transforms = load_weights(here, source=path, cache=tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    expected = (image / 255.0 - np.array(row.mean)) / np.array(row.std)
    np.testing.assert_allclose(transforms([image])[0], expected, atol=1e-6)
    assert transforms([image[:20, :30]]).shape == (1, 32, 32, 3)
    assert transforms.class_names[0] == "airplane"
    assert model.config.num_classes == 10
    other = load_weights(here, cache=tmp_path, num_classes=4, in_channels=1)
    assert other.variables["params"]["head"]["kernel"].shape == (8, 4)
    assert other.variables["params"]["stem"]["conv"]["kernel"].shape == (3, 3, 1, 8)
    assert other.transforms.class_names == ()
    assert "head" not in load_weights(here, cache=tmp_path, num_classes=0).variables["params"]
    with pytest.raises(UsageError, match=r"are of resnet50, not of resnet18"):
        create_model("resnet18", weights="resnet50.a1_in1k")


def test_the_real_file_by_name_on_the_command_line(shared_data, tmp_path, monkeypatch, capsys):
    from resnet_jax.cli.main import run

    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path))
    folder = shared_data / "pytorch-cifar-resnets"
    assert run(["weights", "fetch", "resnet20_cifar.akamaster", "--from", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["checked"], found["licence"]) == ("SHA-256 compared", "bsd-2-clause")
    assert run(["weights", "list", "--filter", "*akamaster", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["top1"] for row in rows] == [91.73, 92.63, 93.1, 93.39, 93.68, 93.82]


@pytest.mark.slow
def test_eval_of_a_name(shared_data, tmp_path, monkeypatch, capsys):
    from resnet_jax.cli.main import run

    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path))
    folder = shared_data / "pytorch-cifar-resnets"
    assert run(["weights", "fetch", "resnet20_cifar.akamaster", "--from", str(folder)]) == 0
    with np.load(shared_data / "cifar10-test-lossless-1017.npz") as data:
        np.savez(tmp_path / "some.npz", x=data["x"][:64], y=data["y"][:64])
    with np.load(folder / "torch-logits.npz") as logits, np.load(tmp_path / "some.npz") as some:
        right = int((logits["resnet20"][:64].argmax(1) == some["y"]).sum())
    source = f"npz:{tmp_path / 'some.npz'}"
    assert run(["eval", "resnet20_cifar.akamaster", "--split", "all", "--data.source", source, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["correct"] == right
    # every other verb that takes a trained network
    monkeypatch.chdir(tmp_path)
    name = "resnet20_cifar.akamaster"
    assert run(["features", name, source, "--out", "features.npz"]) == 0
    assert run(["export", name, "--format", "safetensors", "--out", "net.safetensors"]) == 0
    assert run(["weights", "fold", name, "--out", "folded"]) == 0
    assert {"features.npz", "net.safetensors", "folded"} <= {path.name for path in tmp_path.iterdir()}
