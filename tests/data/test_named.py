"""What a person names is what is read: files, folders, patterns, lists; nothing is passed over in silence."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from resnet_jax.data.named import NamedImages

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name in ("b.png", "a.JPG", "sub/deep/c.png", "sub/[1].png", "sub/notes.txt", ".hidden.png", "sub/.git/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub" / "photo").write_bytes(PNG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_is_the_images_in_it_and_below_it(place):
    named = NamedImages(["."])
    assert list(named) == ["./a.JPG", "./b.png", "./sub/[1].png", "./sub/deep/c.png", "./sub/photo"]
    assert str(named.left_out) == "1 .txt"


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(place):
    assert list(NamedImages(["sub/[1].png"])) == ["sub/[1].png"]
    assert list(NamedImages(["*.png", "**/c.png"])) == ["b.png", "sub/deep/c.png"]
    none = NamedImages(["sub/[2].png", "b.png"])
    assert list(none) == ["b.png"]
    assert none.problems == [("sub/[2].png", "no file matches this pattern")]


def test_a_list_is_read_line_by_line_and_may_be_endless(place):
    endless = (b"%d.png\n" % index for index in itertools.count())
    paths = iter(NamedImages(["first.png", "-", "last.png"], endless))
    assert list(itertools.islice(paths, 4)) == ["first.png", "0.png", "1.png", "2.png"]
    odd = [b"a b.png\r\n", b"\n", os.fsencode("\udcff.png")]
    assert list(NamedImages(["-", "x"], odd)) == ["a b.png", "\udcff.png", "x"]


def test_links_back_and_links_that_lead_nowhere(place):
    (place / "sub" / "loop").symlink_to(place, target_is_directory=True)
    (place / "gone.png").symlink_to(place / "nowhere")
    (place / "lost").symlink_to(place / "nowhere")
    named = NamedImages([place])
    assert [Path(path).name for path in named] == ["a.JPG", "b.png", "gone.png", "[1].png", "c.png", "photo"]
    assert str(named.left_out) == "1 without a suffix, 1 .txt"


def test_a_pipe_in_a_folder_is_left_out_and_not_waited_for(place):
    os.mkfifo(place / "sub" / "pipe.png")
    named = NamedImages(["sub"])
    assert list(named) == ["sub/[1].png", "sub/deep/c.png", "sub/photo"]
    assert str(named.left_out) == "1 .txt, 1 .png"


def test_a_folder_without_images_or_that_cannot_be_read_is_named_and_does_not_lose_the_others(place, monkeypatch):
    (place / "empty").mkdir()
    scandir = os.scandir

    def denied(folder):
        if os.fspath(folder).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", denied)
    named = NamedImages(["empty", "sub", "b.png"])
    assert list(named) == ["sub/[1].png", "sub/photo", "b.png"]
    assert named.problems == [
        ("empty", "no image in this folder or below it"),
        ("sub/deep", "cannot read this folder (Permission denied)"),
    ]
