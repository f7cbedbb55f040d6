"""The lock of a run directory, and files that cannot be written."""

from __future__ import annotations

import contextlib
import errno
import fcntl
from pathlib import Path

import pytest

from resnet_jax.errors import RunError
from resnet_jax.report.metrics_file import Appended, write_whole
from resnet_jax.rundir import RunDirectory


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_without_locks_is_a_warning(number, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    lines = []
    with RunDirectory(tmp_path).locked(lines.append):
        pass
    assert len(lines) == 1
    assert "cannot be locked (No locks available)" in lines[0]


def test_another_process_is_an_error(tmp_path):
    with (
        RunDirectory(tmp_path).locked(),
        pytest.raises(RunError, match="another process is training"),
        RunDirectory(tmp_path).locked(),
    ):
        pass


def test_an_error_inside_is_not_taken_for_one_of_the_lock(tmp_path):
    with pytest.raises(OSError, match="mine"), RunDirectory(tmp_path).locked():
        raise OSError(errno.EAGAIN, "mine")


def test_a_directory_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(RunError, match="cannot write the run directory"), RunDirectory(tmp_path / "no").locked():
        pass


def test_files_are_utf_8_in_any_locale_and_name_themselves_when_the_disk_is_full(tmp_path, monkeypatch):
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
