"""Unforeseen errors in one sentence: what happened, where, and what to do about it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import traceback
from collections.abc import Iterator
from typing import Any

from resnet_jax.errors import RunError
from resnet_jax.runtime.distribution import install

#: What the system reports when there is no space, no permission or another obstacle, and what would help.
_HELP = {
    errno.ENOSPC: "free some space, or name a directory on another disk",
    errno.EDQUOT: "free some of your quota, or name a directory elsewhere",
    errno.EROFS: "name a directory that can be written",
    errno.EACCES: "change its permissions, or name another one",
    errno.EPERM: "change its permissions, or name another one",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or name a directory elsewhere",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.EISDIR: "a file belongs there: move the directory away, or name another place",
    errno.ENOTDIR: "a directory belongs there: move the file away, or name another place",
    errno.EEXIST: "move it away, or name another place",
}


def explain(error: BaseException) -> str:
    """Return the message for an unforeseen error."""
    from resnet_jax.training.need import is_memory, no_memory

    for one in _chain(error):
        if is_memory(one):
            return with_flags(no_memory(str(one)))
    if isinstance(error, (RuntimeError, AssertionError)) and (failed := _no_devices()) is not None:
        return no_platform(failed)
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in _HELP:
            where = f" {one.filename}" if one.filename else ""
            return f"cannot write{where}: {one.strerror}; {_HELP[one.errno]}"
    text = str(error).strip()
    name = type(error).__name__
    return f"{name}: {text}" if text else f"{name} without a message, in {place(error)}"


@contextlib.contextmanager
def platform_told() -> Iterator[None]:
    """Report it if another process failed because JAX_PLATFORMS names a platform that is not available.

    Raises:
        RunError: in place of the error that carries that process's last output.
    """
    try:
        yield
    except RunError as error:
        if (failed := _no_devices()) is None:
            raise
        raise RunError(no_platform(failed)) from error


def no_platform(error: BaseException) -> str:
    """Return what to do if JAX_PLATFORMS names a platform that is not available."""
    asked = os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME") or ""
    there = _platforms()
    reason = str(error).strip().splitlines()
    because = re.sub(r"\s*\(set JAX_PLATFORMS.*", "", reason[0]) if reason else ""
    listed = ", ".join(there) or "none"
    return (
        f"JAX cannot use the platform that JAX_PLATFORMS={asked} asks for"
        + (f" ({because})" if because else "")
        + f"; this machine and installation have: {listed}. Unset JAX_PLATFORMS to take the best of them"
        + (f", or set JAX_PLATFORMS={there[0]}" if there else "")
        + f". GPUs need the extra cuda12 or cuda13, TPUs the extra tpu: {install('cuda12')}"
    )


#: Arguments that are not fields of a run, where a message gives them a value, ``key=ema`` -> how to type them.
_ARGUMENTS = ("agc", "at_once", "batch", "class_names", "crop", "image_size", "key", "model", "out", "seeds")
#: Those that cannot be an ordinary word of a message, with a value or without.
_BY_NAME = (
    "init_from", "init_head", "init_stem", "init_bands", "init_inflate", "members_at_once", "run_dir",
    "skip_incompatible",
)  # fmt: skip


def with_flags(message: str) -> str:
    """Return a message of the library, in which fields and arguments are replaced by the flags to type.

    >>> with_flags("train.batch_size must be 1 or more, got 0")
    'train.batch_size must be 1 or more, got 0 (--train.batch-size)'
    >>> with_flags("choose by key=ema; num_classes=0 takes none"), with_flags("another run_dir")
    ('choose by key=ema; num_classes=0 takes none (--key ema, --model.num-classes 0)', 'another run_dir (--run-dir)')
    >>> with_flags("recipe.yaml: seed must be 0 or more"), with_flags("give --data.mean")
    ('recipe.yaml: seed must be 0 or more', 'give --data.mean')
    """
    if re.match(r"\S+\.ya?ml\b", message):  # what is wrong there is put right there
        return message
    named = r"(?<![\w./=-])([a-z]\w*(?:\.[a-z]\w*)*)(?:=('[^'\n]*'|[^\s,;:()'\"]+))?(?![\w/-])"
    found = [(name, value) for name, value in re.findall(named, message) if "." in name or value or name in _BY_NAME]
    if not found:
        return message
    from resnet_jax.fields import options_of
    from resnet_jax.runs.config import RunConfig

    options, flags = options_of(RunConfig), []
    for name, value in found:
        given = f" {value.strip(chr(39))}" if value else ""
        if ("." in name and name in options) or name in _BY_NAME:
            flags.append(f"--{name.replace('_', '-')}")
        elif value and name in _ARGUMENTS:
            flags.append(f"--{name.replace('_', '-')}{given}")
        elif value and f"model.{name}" in options and _is_value(given[1:], options[f"model.{name}"]):
            flags.append(f"--model.{name.replace('_', '-')}{given}")
    flags = [flag for flag in dict.fromkeys(flags) if flag not in message]
    return f"{message} ({', '.join(flags)})" if flags else message


def _is_value(text: str, hint: Any) -> bool:
    """Return whether a value can be typed for an option: one of its values if those are listed."""
    from resnet_jax.fields import choices_of

    known = choices_of(hint)
    return not known or text in [str(value) for value in known]


def place(error: BaseException) -> str:
    """Return the file and line where an error was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "an unknown place"
    last = frames[-1]
    parts = last.filename.replace(os.sep, "/").split("/site-packages/")[-1].split("/")
    return f"{'/'.join(parts[-3:])}, line {last.lineno} ({last.name})"


def _no_devices() -> Exception | None:
    """Return the error with which JAX fails to find the devices of a requested platform, or None if it finds some."""
    if not (os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME")):
        return None
    import jax

    try:  # JAX takes its own frames out of tracebacks, so where the first error came from is not to be seen
        jax.devices()
    except Exception as error:
        return error
    return None


def _platforms() -> list[str]:
    """Return the available platforms, the best first."""
    import jax

    try:
        for name in ("jax_platforms", "jax_platform_name"):
            jax.config.update(name, None if name == "jax_platforms" else "")
        first = jax.devices()[0].platform
        return list(dict.fromkeys([first, "cpu"]))
    except Exception:
        return ["cpu"]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
