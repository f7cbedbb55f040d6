"""Runs the Python of Markdown pages, each block in a process of its own, in the current directory.

Usage: python .ci/snippets.py PAGE.md ... [--without TEXT]    TEXT: blocks that contain it are left out
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path


def main(argv: list[str]) -> int:
    """Run the blocks and return the exit status."""
    at = argv.index("--without") if "--without" in argv else len(argv)
    without, status, ran = argv[at + 1 :], 0, 0
    for page in map(Path, argv[:at]):
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(r"^```python\n(.*?)^```", text, re.S | re.M):
            place = f"{page.name}:{text.count(chr(10), 0, block.start()) + 2}"
            if any(words in block[1] for words in without):
                print(f"{place}: left out")
                continue
            start = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", block[1]], check=False)
            print(f"{place}: {'ran' if done.returncode == 0 else 'FAILED'}, {time.perf_counter() - start:.1f} s")
            status, ran = status | done.returncode, ran + 1
    if not ran:
        print("no Python was found")
    return int(bool(status) or not ran)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
