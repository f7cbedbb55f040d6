"""Published weights by name: downloaded once, verified before each use, cached, and made into a run directory.

A file is kept only if its SHA-256 matches the table. Where the table has none, the checksum that the hub announces is
used. The checksum is recorded next to the file and verified again before every use.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal

from resnet_jax.deploy.download import CHUNK, Patience, Received, UnreachableError, download, partial_file
from resnet_jax.errors import DataError, RunError, UsageError, unknown
from resnet_jax.models.count import count
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runtime.cache import cache_directory
from resnet_jax.runtime.files import write_whole
from resnet_jax.runtime.paths import user_path
from resnet_jax.runtime.plain_files import open_descriptor, read_text
from resnet_jax.weights.published import Published, find_published, published

Via = Literal["auto", "url", "hub"]
Say = Callable[[str], None]

RECORD = "fetched.json"
SPARE = 32 << 20
"""Bytes that a file may have beyond twice four bytes per parameter: for names, other dtypes and counters."""


@dataclasses.dataclass(frozen=True)
class Fetched:
    """Weights in the cache.

    Attributes:
        row: their entry in the table.
        path: path of the file.
        sha256: SHA-256 of the file.
        checked: how the file was verified, in a few words.
        came_from: a URL or a path.
    """

    row: Published
    path: Path
    sha256: str
    checked: str
    came_from: str


def weights_cache(cache: Path | None = None) -> Path:
    """Return the folder of downloaded weights: ``cache``, or ``weights`` in this package's cache directory."""
    return cache_directory() / "weights" if cache is None else user_path(cache)


def model_of(row: Published, **choices: Any) -> ResNet:
    """Return the network that the weights belong to."""
    return ResNet(ModelSpec(row.model, **{**row.choices, **choices}).config())


def class_names_of(row: Published) -> tuple[str, ...] | None:
    """Return the names of the outputs in order; None where this package has no list (imagenet-21k)."""
    from resnet_jax.data.cifar_names import CIFAR10, CIFAR100
    from resnet_jax.weights.known import imagenet_wnids

    match row.classes:
        case "imagenet-1k":
            return imagenet_wnids()
        case "cifar10":
            return tuple(CIFAR10)
        case "cifar100":
            return tuple(CIFAR100)
        case _:
            return None


def fetch_weights(
    weights: str | Published,
    *,
    source: str | Path | None = None,
    cache: Path | None = None,
    via: Via = "auto",
    patience: Patience | None = None,
    say: Say = lambda _: None,
) -> Fetched:
    """Return published weights from the cache, downloading them first if necessary.

    Args:
        weights: a name of :func:`resnet_jax.weights.published.list_weights`, or its entry.
        source: take them from this file, or from a folder that contains it under its own name, without network access.
        cache: the folder to keep them in (default: :func:`weights_cache`).
        via: ``url`` or ``hub``, where both exist; ``auto`` takes the file whose checksum is known.
        patience: when to give up on a server.
        say: called with progress messages.

    Raises:
        UsageError: there are no such weights, or not from this place.
        DataError: they cannot be downloaded, or fail verification; nothing is kept then.
        RunError: the cache cannot be written.
    """
    row = find_published(weights) if isinstance(weights, str) else weights
    url = _address(row, via)
    folder = weights_cache(cache) / row.name
    path = folder / url.rpartition("/")[2].partition("?")[0]
    kept = _from_cache(row, path)
    if kept is not None and source is None:
        return kept
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if source is not None:
            found = _taken(row, user_path(source), path)
        else:
            say(f"fetching {url}")
            comparison = _Comparison(row, url)
            most = 2 * 4 * count(model_of(row), (row.image_size, row.image_size, 3)).params + SPARE
            received = download(url, path, most=most, check=comparison, patience=patience)
            found = Fetched(row, path, received.sha256, comparison.said, url)
        note = {"sha256": found.sha256, "checked": found.checked, "came_from": found.came_from, "file": path.name}
        write_whole(folder / RECORD, json.dumps(note, indent=2) + "\n")
    except UnreachableError as error:
        raise UnreachableError(
            f"{error}. Without a network: resnet-jax weights fetch {row.name} --from FILE, a file that you have"
        ) from None
    except OSError as error:
        raise RunError(f"cannot keep {row.name} in {folder}: {error.strerror or error}") from error
    return found


def _address(row: Published, via: Via) -> str:
    """Return the address to download weights from.

    Raises:
        UsageError: the weights are not available there.
    """
    addresses = {"auto": row.place, "url": row.url, "hub": row.on_hub}
    if via not in addresses:
        raise unknown("via", via, addresses)
    if not addresses[via]:
        where = "not on the hub" if via == "hub" else "only on the hub"
        raise UsageError(f"{row.name} is {where}: leave via {via} out")
    address = addresses[via]
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")  # huggingface_hub's variable for mirrors
    return address.replace("https://huggingface.co", endpoint, 1) if endpoint and address == row.on_hub else address


class _Comparison:
    """Compares a download with what is known about it, and remembers how."""

    def __init__(self, row: Published, place: str, *, known: bool | None = None):
        self.row, self.place, self.said = row, place, ""
        self.known = bool(row.url) and place == row.url if known is None else known

    def __call__(self, received: Received) -> None:
        wanted = self.row.sha256 if self.known else ""
        if wanted and not received.sha256.startswith(wanted):
            raise DataError(
                f"{self.place}: this is not the file of {self.row.name}: its SHA-256 is {received.sha256}, and should "
                f"{'be' if len(wanted) == 64 else 'begin with'} {wanted}; nothing was kept"
            )
        if received.announced and received.announced != received.sha256:
            raise DataError(
                f"{self.place}: the server announces SHA-256 {received.announced}, and what came has "
                f"{received.sha256}; nothing was kept"
            )
        if wanted:
            whole = len(wanted) == 64
            self.said = "SHA-256 compared" if whole else f"first {len(wanted)} digits of SHA-256 compared"
        elif received.announced:
            self.said = "SHA-256 compared with the server's own announcement; none is published elsewhere"
        else:
            self.said = "not compared: no checksum of it is known"


def _from_cache(row: Published, path: Path) -> Fetched | None:
    """Return the cached weights if the file is unchanged; a changed file is removed."""
    if not path.is_file():
        return None
    try:
        note = json.loads(read_text(path.parent / RECORD))
        digest = _digest_of(path)
        right = note["sha256"] == digest and note["file"] == path.name
        if right and all(isinstance(note[name], str) for name in ("checked", "came_from")):
            return Fetched(row, path, digest, note["checked"], note["came_from"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    path.unlink(missing_ok=True)
    return None


def _digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    descriptor, _ = open_descriptor(path)
    with open(descriptor, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _taken(row: Published, source: Path, path: Path) -> Fetched:
    """Copy a file that the user has into the cache, and verify it.

    Raises:
        DataError: there is no such file, or it is a different one.
    """
    places = [source]
    if source.is_dir():
        names = [url.rpartition("/")[2] for url in (row.url, row.on_hub) if url]
        places = [found for name in names for found in (source / name, source / row.hub.rpartition("/")[0] / name)]
    there = next((place for place in places if place.is_file()), None)
    if there is None:
        wanted = " or ".join(dict.fromkeys(place.name for place in places))
        raise DataError(f"{source} has no file {wanted}" if source.is_dir() else f"there is no file {source}")
    try:
        descriptor, _ = open_descriptor(there)
    except OSError as error:
        raise DataError(f"cannot read {there}: {error.strerror or error}") from None
    with partial_file(path) as (file, partial), open(descriptor, "rb") as original:
        digest, size = _copied(original, file)
        # a file from the hub has a different checksum than the one at the URL, and a checksum that is not known
        of_hub = bool(row.hub) and there.name == row.hub.rpartition("/")[2] and not digest.startswith(row.sha256 or "-")
        comparison = _Comparison(row, str(there), known=bool(row.url) and not of_hub)
        comparison(Received(digest, size))
        file.flush()
        os.replace(partial, path)
    return Fetched(row, path, digest, comparison.said, str(there.absolute()))


def _copied(original: BinaryIO, file: BinaryIO) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while chunk := original.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
        file.write(chunk)
    return digest.hexdigest(), size


def run_of(
    weights: str | Published, *, source: str | Path | None = None, cache: Path | None = None, say: Say = lambda _: None
) -> Path:
    """Return a run directory of published weights in the cache, creating it on first use; see :func:`fetch_weights`.

    It contains their classes, normalization, size, resize and interpolation, and works wherever a run directory does.
    """
    from resnet_jax.runs.foreign import import_weights

    fetched = fetch_weights(weights, source=source, cache=cache, say=say)
    row = fetched.row
    out = fetched.path.parent / f"run-{fetched.sha256[:12]}"
    if (out / "config.yaml").is_file():
        return out
    small = row.image_size < 64
    names: Any = class_names_of(row)
    building = Path(tempfile.mkdtemp(prefix=".run-", dir=out.parent))
    try:
        import_weights(
            fetched.path,
            ModelSpec(row.model, **row.choices),
            building,
            image_size=row.image_size,
            crop="none" if small else "random_resized",
            class_names=names,
            mean=row.mean,
            std=row.std,
            eval_side=None if small else row.resize,
            interpolation=row.interpolation,  # pyright: ignore[reportArgumentType]
        )
        write_whole(
            building / "notes.txt", f"{row.source}: {fetched.came_from}, licence {row.licence or 'not stated'}\n"
        )
        try:
            building.rename(out)
        except OSError:  # another process was faster
            if not (out / "config.yaml").is_file():
                raise
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return out


def run_path(given: Path, *, say: Say = lambda _: None) -> Path:
    """Return ``given`` if it is a path. If it is the name of published weights, return a run directory of these.

    Args:
        given: what the user typed in place of a run directory.
        say: called with progress messages.
    """
    name = str(given)
    if name not in published() or given.exists():
        return given
    return run_of(name, say=say)
