"""Sections about lesions, paths and curvature are pages like the others."""

from __future__ import annotations

import numpy as np

from resnet_jax.report.depth_axes import DepthAxis
from resnet_jax.report.depth_page import Page, render_page
from resnet_jax.report.jacobian_report import hessian_sections
from resnet_jax.report.lesion_report import lesion_sections, path_sections, summarize_lesions

from .test_depth_page import read

DEPTH = DepthAxis(np.array([0, 0, 1, 1]))
NAMES = ["stage1/block0", "stage1/block1", "stage2/block0", "stage2/block1"]
ACCURACY = np.array([0.5, 0.9, np.nan, 0.8])


def test_they_make_one_page():
    rng = np.random.default_rng(0)
    sections = [
        *lesion_sections(
            DEPTH,
            NAMES,
            0.92,
            ACCURACY,
            deletions=(np.array([1, 2]), rng.uniform(0, 1, (2, 3))),
            permutations=(rng.uniform(0, 1, 5), rng.uniform(0, 1, 5)),
        ),
        *path_sections(np.arange(5), 0.1 ** np.arange(5), np.array([1, 4, 6, 4, 1]) / 16),
        *hessian_sections(DEPTH, NAMES, np.array([1.0, 7.0, np.nan, 2.0])),
    ]
    text = render_page(Page("All", {}, summarize_lesions(NAMES, 0.92, ACCURACY), sections))
    page = read(text)
    assert len(page.figures) == 5
    assert all("figcaption" in tags for tags in page.figures)
    assert "The loss bends most for block 1 (stage1/block1): 7." in text
    assert "<td>0.42" in text  # lost without the first block
    assert (
        "Without block 0 (stage1/block0), the one it needs most, it names 50 %; without a typical block (median) 80 %."
        in text
    )


def test_a_path_carries_gradient_times_count():
    (section,) = path_sections(np.arange(3), np.array([1.0, 0.5, 0.25]), np.array([0.25, 0.5, 0.25]))
    carried = section.figures[0].figure.axes[1].lines[1].get_ydata()
    np.testing.assert_allclose(carried, np.array([0.25, 0.25, 0.0625]) / 0.5625)


def test_a_network_that_cannot_be_cut():
    nothing = np.full(4, np.nan)
    assert summarize_lesions(NAMES, 0.1, nothing)[1] == "No block of it can be taken out."
    (section,) = lesion_sections(DEPTH, NAMES, 0.1, nothing)
    assert section.figures[0].empty
    assert hessian_sections(DEPTH, NAMES, nothing)[0].figures[0].empty
