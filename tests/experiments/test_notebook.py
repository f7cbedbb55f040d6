"""The notebook of experiments/ runs from top to bottom, and is committed with its results."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "experiments" / "gradients_through_depth.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after a run in a kernel of its own, with fewer blocks and steps.

    The kernel is this interpreter (an installed kernel of the same name could be another), and gets its own folders.
    """
    folder = tmp_path_factory.mktemp("jupyter")
    kernel = folder / "kernels" / "here"
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "here", "language": "python"}))
    places = {"JUPYTER_PATH": str(folder), "JUPYTER_RUNTIME_DIR": str(folder), "IPYTHONDIR": str(folder)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**places, "RESNET_JAX_QUICK_NOTEBOOK": "1"}.items():
            patch.setenv(name, value)
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        client = nbclient.NotebookClient(notebook, kernel_name="here", timeout=300)
        return client.execute(cwd=str(folder), env=dict(os.environ))


def outputs(notebook) -> str:
    return "\n".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def pictures(notebook) -> int:
    return sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))


@pytest.mark.slow
def test_notebook_runs_and_shows_its_figures(executed):
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")
    assert pictures(executed) == 3
    loss = re.search(r"loss ([\d.]+) -> ([\d.]+); norms: 4 steps, 4 blocks", outputs(executed))
    assert loss is not None
    assert np.isfinite([float(value) for value in loss.groups()]).all()


def test_committed_notebook_holds_the_results_of_the_whole_run():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))  # once, from top to bottom
    assert pictures(notebook) == 3
    assert "60 steps, 20 blocks" in outputs(notebook)
    assert not any(output.output_type == "error" for cell in notebook.cells for output in cell.get("outputs", []))
    assert NOTEBOOK.stat().st_size < 500_000
