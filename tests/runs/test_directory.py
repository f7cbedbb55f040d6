"""The lock of a run directory."""

from __future__ import annotations

import errno
import fcntl

import pytest

from resnet_jax.errors import RunError
from resnet_jax.runs.directory import RunDirectory


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
