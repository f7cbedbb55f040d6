"""Who could have written what is run."""

from __future__ import annotations

import os

import pytest

from resnet_jax.runtime.trusted import distrust, make_private

ROOT = os.name != "nt" and os.getuid() == 0


def test_what_only_this_user_can_write_is_trusted(tmp_path):
    make_private(tmp_path / "a" / "b")
    assert distrust(tmp_path / "a" / "b") is None
    assert distrust(tmp_path / "a" / "b" / "not" / "there") is None


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
@pytest.mark.parametrize("which", ["a/b", "a", "."])
def test_one_folder_on_the_way_that_others_can_write_is_enough(tmp_path, mode, which):
    folder = tmp_path / "x" / "a" / "b"
    make_private(folder)
    at_fault = (tmp_path / "x" / which).resolve()
    at_fault.chmod(mode)
    group_of_one = mode == 0o775 and distrust(folder) is None  # a group that nobody else is in
    if not group_of_one:
        assert distrust(folder) == f"{at_fault} can be written by others (chmod go-w fixes it)"


def test_above_the_folder_a_sticky_one_will_do(tmp_path):
    make_private(tmp_path / "x" / "a")
    (tmp_path / "x").chmod(0o1777)
    assert distrust(tmp_path / "x" / "a") is None
    assert distrust(tmp_path / "x") is not None, "anybody can put something there"


def test_links_are_followed_and_each_folder_that_they_lead_through_counts(tmp_path):
    make_private(tmp_path / "open" / "a")
    make_private(tmp_path / "mine")
    (tmp_path / "mine" / "link").symlink_to("../open/a")
    assert distrust(tmp_path / "mine" / "link") is None
    (tmp_path / "open").chmod(0o777)
    assert distrust(tmp_path / "mine" / "link") is not None
    (tmp_path / "mine" / "round").symlink_to("round")
    assert "leads nowhere" in str(distrust(tmp_path / "mine" / "round"))


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
def test_what_belongs_to_another_user(tmp_path):
    make_private(tmp_path / "a" / "b")
    os.chown(tmp_path / "a", 12345, -1)
    assert distrust(tmp_path / "a" / "b") == f"{tmp_path / 'a'} belongs to another user (number 12345)"
    os.chown(tmp_path / "a", 0, -1)
    (tmp_path / "link").symlink_to("a/b")
    os.chown(tmp_path / "link", 12345, -1, follow_symlinks=False)
    assert "is a link of another user" in str(distrust(tmp_path / "link"))
