"""Only regular files are read: nothing waits for a pipe, and no device is read for ever."""

from __future__ import annotations

import os
import socket

import pytest

from resnet_jax.runtime.plain_files import open_file, read_file, read_text


@pytest.fixture
def irregular(tmp_path):
    """Return a function that makes a name of what is no file."""

    def make(kind: str):
        path = tmp_path / kind
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            server = socket.socket(socket.AF_UNIX)
            server.bind(str(path))
            server.close()
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "terminal":
            path.symlink_to("/dev/ptmx")
        return path

    return make


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device"])
def test_what_is_no_file_is_refused_at_once(irregular, kind):
    path = irregular(kind)
    for read in (open_file, read_file, read_text):
        with pytest.raises(OSError, match=rf"this is a {kind} and no file: '{path}'"):
            read(path)


def test_files_links_and_limits(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfabc")
    (tmp_path / "link").symlink_to("a")
    assert read_file(tmp_path / "link") == b"\xef\xbb\xbfabc"
    assert read_text(tmp_path / "a", encoding="utf-8-sig") == "abc"
    with open_file(tmp_path / "a") as file:
        assert file.read(3) == b"\xef\xbb\xbf"
    with pytest.raises(OSError, match="it has 6 bytes; at most 5 are read"):
        read_file(tmp_path / "a", 5)
    with pytest.raises(OSError, match="No such file"):
        read_file(tmp_path / "b")
    with pytest.raises(OSError, match=r"null (byte|character)"):
        read_file("a\0b")


def test_of_a_file_without_an_end_no_more_is_read_than_it_says():
    """Files of the system say that they have no bytes, whatever comes out of them."""
    assert read_file("/proc/self/status") == b""
