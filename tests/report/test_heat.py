"""Pictures of inputs with maps over them."""

from __future__ import annotations

import cv2
import numpy as np

from resnet_jax.report.heat import picture


def test_a_volume_is_cut_where_its_map_is_largest_and_nothing_else_is_coloured():
    heat = np.zeros((6, 8, 10))
    heat[1, 6, 2] = 1
    png = picture(np.full((6, 8, 10, 1), 90, np.uint8), heat, signed=True)
    blue, _, red = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).astype(int).transpose(2, 0, 1)
    scale = red.shape[0] // 8
    rows, columns = (np.unique(where // scale) for where in np.nonzero(red - blue > 20))
    # slices of 8x10, 6x10 and 6x8, each after a gap of 1; those of 6 rows are in the middle of 8
    assert {6, 2} <= set(rows.tolist())
    assert {2, 10 + 1 + 2, 20 + 2 + 6} <= set(columns.tolist())
    near = {at + by for at in (2, 13, 28) for by in (-1, 0, 1)}
    assert set(columns.tolist()) <= near
