"""A file is whole or not there, in any locale, and says its own name when it cannot be written."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from resnet_jax.runtime.files import Appended, replacing, write_whole


def test_files_are_utf_8_in_any_locale_and_name_themselves_when_the_disk_is_full(tmp_path):
    path = tmp_path / "table.md"
    write_whole(path, "91.64 ± 0.5, 猫, \ud800")
    assert path.read_text(encoding="utf-8") == "91.64 ± 0.5, 猫, \\ud800"
    full = Appended(Path("/dev/full"))
    with pytest.raises(OSError, match="No space left") as caught:
        full.write("x")
    with contextlib.suppress(OSError):
        full.close()
    assert caught.value.filename == "/dev/full"
    with pytest.raises(OSError, match="nowhere") as caught:
        write_whole(tmp_path / "nowhere" / "x", "text")
    assert str(caught.value.filename).endswith("nowhere/x")


def test_what_fails_halfway_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x"
    write_whole(path, "old")

    def halfway() -> None:
        with replacing(path) as partial:
            partial.write_text("ne")
            raise KeyError

    with pytest.raises(KeyError):
        halfway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
