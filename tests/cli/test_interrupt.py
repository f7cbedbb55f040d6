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
def test_ctrl_c_at_many_moments_of_the_start_is_one_line(tmp_path):
    """From when Python itself has started, through the imports, to where the network is compiled."""
    for moment in range(20):
        process = subprocess.Popen(
            [sys.executable, "-m", "resnet_jax", "train", "digits", "--run-dir", str(tmp_path / "run")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        time.sleep(0.3 + 0.1 * moment)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, "Traceback" in err) == (130, False), (moment, out, err)
        assert "topped" in err
        assert "test accuracy" not in out


LOST = {
    "destructor": "class A:\n    def __del__(self): press()\nA()",
    "catcher": "try:\n    press()\nexcept BaseException: pass",
    "second": "ending.ENDING = 60\nfor _ in range(2):\n    try:\n        press()\n    except BaseException: pass",
}


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
def test_a_ctrl_c_that_a_library_loses_ends_the_process_all_the_same(lost):
    code = (
        "import os, signal, sys, time\nfrom resnet_jax.runtime import ending\nending.ENDING = 0.2\n"
        "sys.unraisablehook = ending.say_no_more\nending.stop_quietly()\n"
        "def press():\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(0.01)\n"
    )
    command = [sys.executable, "-c", f"{code}{lost}\ntime.sleep(30)"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=25)
    assert (process.returncode, process.stderr) == (130, "Stopped at once.\n")


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
