"""A user's own modules, imported for what they register: networks, blocks, norms, sources, transforms, tasks."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from resnet_jax.errors import UsageError
from resnet_jax.runtime.paths import user_path

_imported: dict[str, None] = {}


def imported_modules() -> tuple[str, ...]:
    """Return what :func:`import_modules` has imported in this process, in order: names, and absolute paths of files."""
    return tuple(_imported)


def is_imported(name: str) -> bool:
    """Return whether a module or file has been imported in this process, by :func:`import_modules` or otherwise."""
    if _key(name) in _imported:
        return True
    if not _is_path(name):
        return name in sys.modules
    path = _key(name)
    return any(getattr(module, "__file__", None) == path for module in list(sys.modules.values()))


def whole_names(names: Iterable[str], folder: Path | None = None) -> tuple[str, ...]:
    """Return the names with the paths of files made absolute, each once.

    Args:
        names: names of modules, or paths of files.
        folder: what relative paths are relative to (default: the current directory).

    >>> whole_names(["my_package.norms", "/x/norms.py", "norms.py"], Path("/x"))
    ('my_package.norms', '/x/norms.py')
    """
    folder = Path.cwd() if folder is None else folder
    return tuple(dict.fromkeys(str((folder / user_path(name)).resolve()) if _is_path(name) else name for name in names))


def import_modules(names: Iterable[str]) -> None:
    """Import each module once per process.

    Args:
        names: names of modules (``my_package.norms``), or paths of files (``norms.py``).

    Raises:
        UsageError: if there is no such module or file, or it raised an exception; the message says which and where.
    """
    for name in names:
        if is_imported(name):
            continue
        try:
            if _is_path(name):
                _import_file(name)
            else:
                importlib.import_module(name)
        except UsageError as error:  # a registration that was refused, say
            raise UsageError(f"importing {name}: {error}") from error
        except Exception as error:
            raise UsageError(_said(name, error)) from error
        _imported[_key(name)] = None


def _is_path(name: str) -> bool:
    return name.endswith(".py")


def _key(name: str) -> str:
    return str(user_path(name).resolve()) if _is_path(name) else name


def _import_file(name: str) -> None:
    path = user_path(name).resolve()
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    module_name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None  # it ends with .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise


def _said(name: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == name.split(".")[0]:
        return f"there is no module {name}; a file is named with its .py, as {name.replace('.', '/')}.py"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    where = f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if len(frames) > 1 else ""
    return f"importing {name} failed: {type(error).__name__}: {error}{where}"
