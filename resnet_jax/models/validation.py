"""Which values a choice may have, and which choices are incompatible and why.

A combination that no paper defines, or that cannot learn, is rejected with the reason. It is never altered silently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_jax.errors import UsageError

if TYPE_CHECKING:
    from resnet_jax.models.config import ResNetConfig


def check_stages(config: ResNetConfig) -> None:
    """Check that ``config`` has stages and a width for each.

    Raises:
        UsageError: it does not.
    """
    if not config.stage_sizes:
        raise UsageError("stage_sizes must be one or more blocks per stage, got ()")
    if len(config.widths) != len(config.stage_sizes):
        raise UsageError(f"widths {config.widths} must give one positive width for each of {config.stage_sizes}")


def check_combination(config: ResNetConfig) -> None:
    """Check that the choices of ``config`` are compatible.

    Raises:
        UsageError: they are not; the message lists every reason.
    """
    reasons = conflicts(config)
    if reasons:
        raise UsageError("these choices do not go together: " + "; ".join(reasons))


def conflicts(c: ResNetConfig) -> list[str]:
    """Return why the choices are incompatible, one sentence per pair; empty if they are compatible."""
    rules = [
        (
            c.residual == "zero_gamma" and c.norm in ("none", "folded"),
            f"residual zero_gamma needs a norm with a scale to start at 0, and norm is {c.norm}",
        ),
        (
            c.residual == "zero_gamma" and c.is_pre,
            "residual zero_gamma with order pre cannot learn: the branch's last norm is followed by an activation "
            "whose slope at 0 stops its gradient (use skipinit or rezero)",
        ),
        (
            c.residual == "fixup" and c.norm != "none",
            f"residual fixup replaces normalization, and norm is {c.norm} (use norm none)",
        ),
        (
            c.residual == "fixup" and c.is_pre,
            "residual fixup is defined for order post (arXiv 1901.09321, fig. 1)",
        ),
        (
            c.residual == "fixup" and (c.has_conv_bias or c.standardizes != "none"),
            "residual fixup has scalar biases and scaled initial weights of its own: no conv_bias, "
            "no weight_standardization",
        ),
        (
            c.residual == "fixup" and (c.stem not in ("cifar", "imagenet", "none") or c.stem_pool == "conv"),
            "residual fixup is defined for stems of one convolution, cifar, or imagenet with max-pooling, or of none",
        ),
        (
            c.is_nf and c.norm != "none",
            f"residual {c.residual} replaces normalization, and norm is {c.norm} (use norm none)",
        ),
        (
            c.is_nf and not c.is_pre,
            f"residual {c.residual} is defined for order pre: the variance is divided out before the activation",
        ),
        (
            c.is_nf and c.standardizes != "scaled",
            f"residual {c.residual} needs weight_standardization scaled: its variances are predicted for such weights",
        ),
        (
            c.shortcut == "none" and c.residual != "plain",
            f"shortcut none has no skip that residual {c.residual} could add to: use residual plain",
        ),
        (
            c.shortcut == "B_norm" and (c.is_pre or c.norm == "none"),
            "shortcut B_norm is for order post and a norm: without one it is shortcut B",
        ),
        (
            c.frontend == "log_mel" and c.spatial_dims != 1,
            f"frontend log_mel is for audio with spatial_dims 1, and spatial_dims is {c.spatial_dims}",
        ),
        (
            c.stem == "whiten" and c.frontend != "none",
            f"stem whiten is computed from the raw inputs, which frontend {c.frontend} changes",
        ),
        (
            c.frontend == "one_hot" and c.in_channels != 1,
            f"frontend one_hot takes one number per position, and in_channels is {c.in_channels}",
        ),
        (
            c.frontend != "log_mel" and c.mel_time_mask + c.mel_band_mask > 0,
            f"mel_time_mask and mel_band_mask need frontend log_mel, and frontend is {c.frontend}",
        ),
        (
            c.stem == "none" and c.is_pre,
            "stem none with order pre: the first block would activate the input itself and lose what is below 0 (use "
            "stem cifar)",
        ),
        (
            c.transition == "none" and c.output_stride is not None,
            "output_stride dilates instead of striding, and transition none has no stride",
        ),
        (
            c.shortcut == "none" and c.drop_path > 0,
            "shortcut none with drop_path would drop the signal itself",
        ),
        (
            c.block == "basic" and (c.groups != 1 or c.base_width != 64),
            "groups and base_width shape the inner 3x3 of block bottleneck; block basic has none",
        ),
        (
            c.block == "bottleneck" and int(min(c.widths) * c.base_width / 64) == 0,
            f"base_width {c.base_width} of 64 leaves no channel of width {min(c.widths)} inside a bottleneck",
        ),
        (
            len(c.branch_widths) % sum(c.stage_sizes) != 0,
            f"branch_widths gives every block as many channel numbers, and {len(c.branch_widths)} numbers are not "
            f"equally many for each of {sum(c.stage_sizes)} blocks",
        ),
        (
            bool(c.branch_widths) and c.groups != 1,
            f"branch_widths is about convolutions of all channels, and groups is {c.groups}",
        ),
        (
            c.stem == "waveform" and (c.spatial_dims != 1 or c.frontend == "log_mel"),
            f"stem waveform is for raw audio: spatial_dims is {c.spatial_dims}, and frontend {c.frontend}",
        ),
        (
            c.stem_stride != 4 and c.stem_pool != "max",
            f"stem {c.stem} {'pools itself' if c.stem_stride > 1 else 'does not pool'}, so stem_pool {c.stem_pool} "
            "does not apply",
        ),
        (
            c.transition == "conv_pool" and (c.is_nf or c.residual == "fixup"),
            f"residual {c.residual} has no rule for the layer of transition conv_pool that is not in a block",
        ),
        (
            c.transition == "conv_pool" and c.output_stride is not None,
            "output_stride dilates instead of striding, and transition conv_pool has no stride",
        ),
        (
            c.residual == "fixup" and c.block == "single",
            "residual fixup scales the layers of a branch before its last, and block single has one layer",
        ),
        (
            c.output_stride is not None and c.output_stride > c.own_stride,
            f"output_stride {c.output_stride} is more than this network's own, {c.own_stride} (stem {c.stem}: "
            f"{c.stem_stride}, times 2 for each of {len(c.stage_sizes) - 1} more stages): dilation only replaces "
            "strides",
        ),
        (
            c.norm != "batch" and c.norm_running_variance != "biased",
            f"norm_running_variance {c.norm_running_variance} applies to norm batch, and norm is {c.norm}",
        ),
        (
            c.norm != "batch" and c.norm_scope != "global",
            f"norm_scope {c.norm_scope} applies to norm batch, and norm is {c.norm}",
        ),
        (
            (c.norm_scope == "ghost") != (c.ghost_size is not None),
            f"norm_scope ghost and ghost_size must be set together, got {c.norm_scope} and {c.ghost_size}",
        ),
        (
            (c.norm_scope == "device_group") != (c.norm_group_devices is not None),
            "norm_scope device_group and norm_group_devices must be set together, got "
            f"{c.norm_scope} and {c.norm_group_devices}",
        ),
        (
            c.head in ("several", "several_uncertain") and not c.head_outputs and c.num_classes > 0,
            f"head {c.head} needs head_outputs, such as ('digit:10', 'parity:2'); a run has them from task.heads",
        ),
    ]
    return [reason for wrong, reason in rules if wrong]
