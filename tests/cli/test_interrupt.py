"""The program itself, started as a user starts it, and interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_ctrl_c_at_many_moments_of_the_imports_is_one_line(tmp_path):
    """From when Python itself has started; nothing has begun then, and nothing is left."""
    for moment in range(20):
        process = subprocess.Popen(
            [sys.executable, "-m", "resnet_jax", "train", "digits", "--run-dir", str(tmp_path / "run")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        time.sleep(0.3 + 0.1 * moment)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, "Traceback" in err) == (130, "", False), (moment, err)
        assert "topped" in err


@pytest.mark.slow
def test_closed_streams_are_not_files_of_the_run(tmp_path):
    """Without standard streams a file would get their numbers, and be printed into."""
    code = "import os; [os.close(n) for n in (0, 1, 2)]; from resnet_jax.cli.main import main; main(['models'])"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=120)
    assert process.returncode == 0
    code = (
        "import os; [os.close(n) for n in (0, 1, 2)]\n"
        "from resnet_jax.cli.streams import open_streams; open_streams()\n"
        f"file = open({str(tmp_path / 'file')!r}, 'w'); os.write(1, b'printed'); os.write(2, b'printed')\n"
        "raise SystemExit(file.fileno())"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode > 2
    assert os.stat(tmp_path / "file").st_size == 0
