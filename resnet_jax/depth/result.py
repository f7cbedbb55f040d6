"""The result of :func:`resnet_jax.depth.profile`: plain arrays in depth order that can be saved and compared."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.depth.arrays import load_arrays, save_arrays
from resnet_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class DepthProfile:
    """Signals and gradients at every block, float64 ``(blocks,)`` in depth order unless stated otherwise.

    Norms are Euclidean, over the whole batch; gradients are those of the mean loss. NaN marks what a block does not
    have (a plain network has no skip), and all gradients if the loss is not finite.

    Attributes:
        names: path of each block.
        stage: stage of each block, from 0, int.
        elements: number of values in each block's output, over the whole batch, int.
        act_mean: mean of the block's output.
        act_var: variance of the block's output, over images, positions and channels.
        act_norm: norm of the block's output.
        zero_share: share of its activations that are exactly 0.
        dead_units: share of channels whose activation is 0 everywhere.
        skip_norm: norm of what the skip contributes to the sum.
        branch_norm: norm of what the branch adds.
        branch_skip_cosine: cosine of the angle between the two.
        grad_norm: norm of dL/dx, where x is the block's input: what the block passes to the one before it.
        grad_norm_out: norm of dL/dy, where y is the block's output.
        branch_grad_norm: norm of the part of dL/dx that came through the branch, at the point where skip and branch
            part.
        skip_grad_norm: norm of the part that came through the skip. (If a projection shares the branch's
            pre-activation, they part after that.)
        weight_norm: norm of all parameters of the block.
        weight_grad_norm: norm of the gradient with respect to them.
        update_norm: norm of the optimizer's update of them; NaN without an optimizer.
        parameters: path of each parameter of the network, with stacked blocks listed one by one.
        parameter_block: depth index of the block it is in, int; -1 for stem, head and so on.
        parameter_weight_norm: norm of each parameter, ``(parameters,)``.
        parameter_grad_norm: norm of its gradient.
        parameter_update_norm: norm of its update.
        about: what was measured: network, loss, batch, ``normalization`` (which statistics batch norm used), ...
    """

    names: tuple[str, ...]
    stage: np.ndarray
    elements: np.ndarray
    act_mean: np.ndarray
    act_var: np.ndarray
    act_norm: np.ndarray
    zero_share: np.ndarray
    dead_units: np.ndarray
    skip_norm: np.ndarray
    branch_norm: np.ndarray
    branch_skip_cosine: np.ndarray
    grad_norm: np.ndarray
    grad_norm_out: np.ndarray
    branch_grad_norm: np.ndarray
    skip_grad_norm: np.ndarray
    weight_norm: np.ndarray
    weight_grad_norm: np.ndarray
    update_norm: np.ndarray
    parameters: tuple[str, ...]
    parameter_block: np.ndarray
    parameter_weight_norm: np.ndarray
    parameter_grad_norm: np.ndarray
    parameter_update_norm: np.ndarray
    about: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self.names)

    @property
    def stage_starts(self) -> tuple[int, ...]:
        """Depth index of the first block of each stage."""
        return tuple(int(start) for start in np.unique(self.stage, return_index=True)[1])

    @property
    def branch_skip_ratio(self) -> np.ndarray:
        """Norm of the branch divided by that of the skip; infinite where the skip is 0."""
        return _ratio(self.branch_norm, self.skip_norm)

    @property
    def branch_grad_share(self) -> np.ndarray:
        """Share of the branch in the squared norms of the two parts of dL/dx, in [0, 1]."""
        branch, skip = np.square(self.branch_grad_norm), np.square(self.skip_grad_norm)
        return _ratio(branch, branch + skip)

    @property
    def weight_grad_ratio(self) -> np.ndarray:
        """Norm of the gradient of a block's parameters over the norm of the parameters."""
        return _ratio(self.weight_grad_norm, self.weight_norm)

    @property
    def update_ratio(self) -> np.ndarray:
        """Norm of the update of a block's parameters over the norm of the parameters."""
        return _ratio(self.update_norm, self.weight_norm)

    @property
    def parameter_update_ratio(self) -> np.ndarray:
        """Norm of the update of each parameter over its norm, ``(parameters,)``; infinite for one that is 0."""
        return _ratio(self.parameter_update_norm, self.parameter_weight_norm)

    def columns(self) -> dict[str, np.ndarray]:
        """Return all columns with one row per block, including the ratios, by name."""
        fields = [f.name for f in dataclasses.fields(self) if f.name not in ("names", "about")]
        table = {name: getattr(self, name) for name in fields if not name.startswith("parameter")}
        ratios = ("branch_skip_ratio", "branch_grad_share", "weight_grad_ratio", "update_ratio")
        return {**table, **{name: getattr(self, name) for name in ratios}}

    def compare(self, other: DepthProfile) -> dict[str, np.ndarray]:
        """Return the ratio of every column of ``other`` to this one's, (blocks,): what changed, and where.

        Raises:
            UsageError: the two do not have the same blocks.
        """
        if self.names != other.names:
            raise UsageError(
                f"profiles of different networks cannot be compared block by block: {len(self)} blocks from "
                f"{self.names[0]} and {len(other)} from {other.names[0]}"
            )
        mine, theirs = self.columns(), other.columns()
        return {name: _ratio(theirs[name], mine[name]) for name in mine if name not in ("stage", "elements")}

    def save(self, path: str | Path) -> None:
        """Write an npz file: one array per column, ``names``, the parameters' columns, and ``about`` as JSON text."""
        save_arrays(self, path, **self.columns())

    @classmethod
    def load(cls, path: str | Path) -> DepthProfile:
        """Read the result of :meth:`save`.

        Raises:
            UsageError: the file is not a profile.
        """
        return load_arrays(cls, path)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(above, np.float64) / np.asarray(below, np.float64)
