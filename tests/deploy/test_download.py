from __future__ import annotations

import hashlib
import time

import numpy as np
import pytest

from resnet_jax.deploy.download import Patience, Received, UnreachableError, download
from resnet_jax.errors import DataError
from tests.deploy.servers import cut, dripping, endless, good, sent_on, serving, stalling

DATA = np.random.default_rng(0).bytes(300_000)
DIGEST = hashlib.sha256(DATA).hexdigest()
QUICK = Patience(silence=0.3, whole=5.0, redirects=3, attempts=3)


def fetch(url, path, *, most=1 << 20, patience=QUICK):
    def check(received: Received) -> None:
        if received.sha256 != DIGEST:
            raise DataError(f"{received.sha256} is another file")

    return download(url, path, most=most, check=check, patience=patience)


def test_a_file_comes_whole(tmp_path):
    with serving({"/a": good(DATA)}) as server:
        received = fetch(f"{server.url}/a", tmp_path / "deep" / "a")
    assert (received.sha256, received.size) == (DIGEST, len(DATA))
    assert (tmp_path / "deep" / "a").read_bytes() == DATA
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (good(DATA[:-1] + b"x"), "another file"),
        (good(DATA[:-1]), "another file"),
        (cut(DATA, 50_000, ranges=False), "cut after 50,000 of 300,000 bytes"),
        (stalling(DATA, 1.5), r"(timed out|no answer in time).* after \d+,000 bytes"),
        (endless(4 << 20), "more than 1,048,576 bytes arrived"),
        (good(bytes(2 << 20)), "announces 2,097,152 bytes; at most 1,048,576"),
        (sent_on("/a"), "redirects more than 3 times"),
        (sent_on("file:///etc/hostname"), "file:///etc/hostname' is not allowed"),
        (sent_on("http://192.0.2.1/a"), "over https, and not over http"),
        (sent_on("ftp://127.0.0.1/a"), "over https, and not over ftp"),
    ],
)
def test_what_is_not_the_file_is_never_left(tmp_path, answer, said):
    begun = time.monotonic()
    with serving({"/a": answer}) as server, pytest.raises(DataError, match=said):
        fetch(f"{server.url}/a", tmp_path / "a")
    assert not list(tmp_path.iterdir())
    assert time.monotonic() - begun < 6


def test_a_file_that_was_there_stays_when_another_comes(tmp_path):
    (tmp_path / "a").write_bytes(b"before")
    with serving({"/a": good(b"other")}) as server, pytest.raises(DataError):
        fetch(f"{server.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"before"


def test_a_server_that_drips_is_given_up_in_bounded_time(tmp_path):
    begun = time.monotonic()
    with (
        serving({"/a": dripping(DATA[:200], 0.05)}) as server,
        pytest.raises(DataError, match=r"incomplete after 0\.5"),
    ):
        fetch(f"{server.url}/a", tmp_path / "a", patience=Patience(silence=0.3, whole=0.5))
    assert time.monotonic() - begun < 3


def test_a_connection_that_is_cut_is_taken_up_where_it_stopped(tmp_path):
    with serving({"/a": cut(DATA, 120_000, ranges=True)}) as server:
        fetch(f"{server.url}/a", tmp_path / "a")
        assert server.asked == [("/a", ""), ("/a", "bytes=120000-"), ("/a", "bytes=240000-")]
    assert (tmp_path / "a").read_bytes() == DATA


def test_the_first_server_says_what_the_file_should_be(tmp_path):
    announced = {"X_Linked_Etag": f'"{DIGEST}"', "X_Repo_Commit": "ab" * 20}
    with serving({"/a": sent_on("/b", **announced), "/b": good(DATA, X_Linked_Etag=f'"{"0" * 64}"')}) as server:
        received = fetch(f"{server.url}/a", tmp_path / "a")
    assert (received.announced, received.revision) == (DIGEST, "ab" * 20)


@pytest.mark.parametrize("url", ["http://example.com/a", "file:///etc/hostname", "ftp://x/a", "a", "https:///a"])
def test_other_addresses_are_refused(tmp_path, url):
    with pytest.raises(DataError, match="over https"):
        fetch(url, tmp_path / "a")


def test_a_server_that_is_not_there_or_has_no_such_file(tmp_path):
    with serving({}) as server:
        url = f"{server.url}/a"
        with pytest.raises(DataError, match="answers 404"):
            fetch(url, tmp_path / "a")
    with pytest.raises(UnreachableError, match="cannot be reached"):
        fetch(url, tmp_path / "a")
