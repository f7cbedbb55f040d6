"""TensorFlow Datasets sets, prepared so that ``tfds:NAME`` opens them: downloaded, or from local files."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_jax.data.prepare_from import take_examples_from
from resnet_jax.data.tfds_builder import INSTALL, find_builder, left_behind, missing_module
from resnet_jax.data.tfds_light import lent, tensorflow_installed
from resnet_jax.errors import DataError, ResNetJaxError, UsageError


@dataclass(frozen=True)
class Prepared:
    """A prepared set.

    Attributes:
        name: its name in TFDS.
        folder: where its files are.
        examples: split, as TFDS names it -> number of examples.
        size: size of its files in bytes.
        already: whether it was prepared before, so that nothing was done.
        opens_as: the source that reads it.
    """

    name: str
    folder: str
    examples: dict[str, int]
    size: int
    already: bool
    opens_as: str

    def lines(self) -> list[str]:
        """Return the lines to print."""
        splits = ", ".join(f"{count:,} {split}" for split, count in self.examples.items())
        was = "is prepared already" if self.already else "is prepared"
        return [
            f"{self.name} {was} in {self.folder}: {splits} examples, {self.size / 1e6:,.1f} MB",
            f"open it as {self.opens_as}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the result for ``--json``."""
        return dataclasses.asdict(self)


def prepare(
    name: str,
    data_dir: Path | None = None,
    *,
    source: str | None = None,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Prepare a set, unless it is already prepared.

    Args:
        name: its name in TFDS: ``mnist``, ``imagenette/160px-v2``.
        data_dir: where sets are stored; None for TFDS's default.
        source: a data set to take the examples from instead of downloading, as for ``load_dataset``.
        say: called with what is worth knowing before it begins.
        progress: called with the progress.

    Raises:
        DataError: if it cannot be downloaded or prepared; the message says what is needed.
        UsageError: if it is already prepared, and ``source`` is given.
    """
    where = None if data_dir is None else str(Path(data_dir).expanduser())
    builder = find_builder(name, where)
    opens_as = f"tfds:{name}" + (f"@{where}" if where else "")
    if builder.is_prepared():
        if source is not None:
            raise UsageError(
                f"{name} is prepared already in {builder.data_dir}; remove that folder, or name another --data-dir"
            )
        _check_format(builder, opens_as)
        return _result(builder, opens_as, already=True)
    for folder in left_behind(builder):
        say(
            f"{folder} is left over from an interrupted preparation; it is not used and can be removed, unless "
            "another process is preparing it"
        )
    if source is not None:
        with _quiet():
            total = 0
            dataset = take_examples_from(
                builder, source, say, lambda count: progress(f"{count:,} of {total:,} examples")
            )
            total = sum(len(records) for records in dataset.splits.values())
            _run(builder, name, where)
    else:
        _check_manual(builder, name)
        say(_plan(builder, name))
        _run(builder, name, where)
    return _result(builder, opens_as, already=False)


def _run(builder: Any, name: str, where: str | None) -> None:
    """Let TFDS prepare the set, and report errors in one sentence."""
    again = f"resnet-jax data prepare {name}" + (f" --data-dir {where}" if where else "")
    lend = contextlib.nullcontext() if tensorflow_installed() else lent(builder)
    try:
        with lend, contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(file_format="array_record")
    except ResNetJaxError:
        raise
    except ImportError as error:
        raise DataError(
            f"tfds:{name}: the code of this set needs {missing_module(error)}, which is not installed: {INSTALL}, then "
            f"again\n  {again}\nDownloads are kept in {_downloads(builder)}; reading the set needs no TensorFlow"
        ) from error
    except OSError as error:
        if type(error).__module__.startswith("requests"):
            raise DataError(f"tfds:{name} cannot be downloaded: {_first_lines(error)}{_hint(builder)}") from error
        what = f"{error.filename or builder.data_dir}: {error.strerror}" if error.strerror else _first_lines(error)
        raise DataError(f"tfds:{name} cannot be prepared: {what}{_hint(builder)}") from error
    except Exception as error:
        what = "cannot be downloaded" if "ownload" in type(error).__name__ else "cannot be prepared"
        raise DataError(
            f"tfds:{name} {what} ({type(error).__name__}: {_first_lines(error)}){_hint(builder)}"
        ) from error


def _hint(builder: Any) -> str:
    return (
        f". Files that you fetched otherwise are taken from {_downloads(builder) / 'manual'} if they are called as on "
        "the server; or prepare it from a data set that is here: --from SOURCE"
    )


def _first_lines(error: Exception) -> str:
    return textwrap.shorten(re.sub(r"\x1b\[[0-9;]*m", "", str(error)), 300) or type(error).__name__


def _downloads(builder: Any) -> Path:
    return Path(builder.data_dir_root if hasattr(builder, "data_dir_root") else builder._data_dir_root) / "downloads"


def _check_manual(builder: Any, name: str) -> None:
    """Reject a set whose files only the user can download, before anything else is done, if none exist.

    Raises:
        DataError: in that case, with TFDS's instructions and the folder.
    """
    if not builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return
    manual = _downloads(builder) / "manual"
    if manual.is_dir() and any(manual.iterdir()):
        return
    steps = textwrap.indent(textwrap.dedent(builder.MANUAL_DOWNLOAD_INSTRUCTIONS).strip(), "  ")
    raise DataError(
        f"tfds:{name} is not downloaded automatically. Put its files into {manual} (manual_dir), as they are, and run "
        f"this command again. TFDS says:\n{steps}"
    )


def _plan(builder: Any, name: str) -> str:
    """Return what will happen: how much is downloaded and where it goes.

    Raises:
        DataError: if there is too little space.
    """
    downloads = _downloads(builder)
    infos = builder.url_infos or {}
    present = {url: _by_hand(downloads, url) for url in infos}
    download = sum(info.size or 0 for url, info in infos.items() if present[url] is None)
    by_hand = sum(file.stat().st_size for file in present.values() if file is not None)
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:  # the other files are those that are left out
        download = 0
    several = len(builder.BUILDER_CONFIGS) > 1  # what is downloaded is known of all configurations together
    needed = by_hand + int(builder.info.dataset_size or 0) + (0 if several else 2 * download)
    root = next(folder for folder in (downloads, *downloads.parents) if folder.is_dir())
    free = shutil.disk_usage(root).free
    if needed > free:
        raise DataError(
            f"tfds:{name} takes about {needed / 1e9:,.1f} GB (downloaded, unpacked and prepared) and {free / 1e9:,.1f} "
            f"GB are free in {root}; name another --data-dir"
        )
    size = f"at most {download / 1e6:,.1f} MB are downloaded to {downloads}"
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        size = f"read from {downloads / 'manual'}"
    elif not download:
        size = f"downloaded to {downloads}, how much is not known"
    extra = "" if tensorflow_installed() else f" TensorFlow is not installed: should its code need it, {INSTALL}."
    return f"{name}: {size}, and prepared in {builder.data_dir}.{extra}"


def _by_hand(downloads: Path, url: str) -> Path | None:
    """Return the file that the user put where TFDS looks before it downloads, or None."""
    file = downloads / "manual" / url.rpartition("/")[2]
    return file if file.is_file() else None


def _check_format(builder: Any, opens_as: str) -> None:
    file_format = builder.info.file_format.value
    if file_format != "array_record":
        raise DataError(
            f"{opens_as}: {builder.data_dir} is prepared in the format {file_format}, which cannot be read at random; "
            "remove it, or name another --data-dir, then run this command again"
        )


def _result(builder: Any, opens_as: str, *, already: bool) -> Prepared:
    splits = {key: int(split.num_examples) for key, split in builder.info.splits.items()}
    size = sum(file.stat().st_size for file in Path(builder.data_dir).rglob("*") if file.is_file())
    return Prepared(builder.info.full_name, str(builder.data_dir), splits, size, already, opens_as)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep TFDS's own progress bars off the terminal, where ours show the progress."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
