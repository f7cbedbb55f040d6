"""Checks what is in a wheel and a source distribution: all that the package needs, and nothing else.

Usage: python .ci/contents.py FILE.whl FILE.tar.gz
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

#: Beside the package, in a wheel and in a source distribution.
WHEEL = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
SOURCE = {"LICENSE", "README.md", "SECURITY.md", "CHANGELOG.md", "CITATION.cff", "PKG-INFO", "pyproject.toml"} | {
    ".gitignore"
}
#: One of each kind of file that is no Python, which a wheel without would be broken at run time only.
NEEDED = (
    "py.typed", "__init__.pyi", "recipes/digits.yaml", "ops/native/conv.cc", "ops/native/common.h", "report/page.css",
    "report/page.js", "deploy/serve/page.html", "deploy/serve/page.js", "weights/published.csv",
)  # fmt: skip
#: Folders of this machine: who builds, and where.
MACHINE = re.compile(b"|".join(re.escape(f"{folder.resolve()}/".encode()) for folder in (Path.home(), Path.cwd())))


def members(path: Path) -> dict[str, bytes]:
    """Return the content of each file of an archive; without the folder around all of a source distribution."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    with tarfile.open(path) as archive:
        files = [member for member in archive.getmembers() if member.isfile()]
        return {member.name.partition("/")[2]: archive.extractfile(member).read() for member in files}  # pyright: ignore


def faults(path: Path, tracked: set[str]) -> list[str]:
    """Return what is wrong with an archive, a line each."""
    found = members(path)
    package = {name for name in found if name.startswith("resnet_jax/")}
    others = {re.sub(r"^[^/]+\.dist-info/", "", name) for name in found.keys() - package}
    allowed = WHEEL if path.suffix == ".whl" else SOURCE
    said = [f"{name} is missing" for name in sorted(tracked - package)]
    said += [f"{name} is not of the repository" for name in sorted(package - tracked)]
    said += [f"{name} does not belong there" for name in sorted(others - allowed)]
    said += [f"{name} is missing" for name in sorted(allowed - others - {".gitignore"})]
    said += [f"{name} is missing" for name in NEEDED if f"resnet_jax/{name}" not in package]
    said += [f"{name} names a folder of a machine" for name, content in found.items() if MACHINE.search(content)]
    return said


def main(paths: list[str]) -> int:
    """Print what is wrong with each file and return the exit status."""
    listed = subprocess.run(["git", "ls-files", "resnet_jax"], capture_output=True, text=True, check=True).stdout
    status = 0
    for path in map(Path, paths):
        said = faults(path, set(listed.splitlines()))
        print(
            f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, {'; '.join(said) or 'all that belongs there, no more'}"
        )
        status |= bool(said)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
