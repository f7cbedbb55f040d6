"""What a run says of where its training images lie: resident on the devices, in memory, or read as needed."""

from __future__ import annotations

from resnet_jax.data.pipeline import TrainBatches
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.dispatch import RESIDENT_SHARE, STEPS_PER_DISPATCH, steps_per_dispatch
from resnet_jax.training.placement import Devices, as_placement


def describe_feed(config: RunConfig, feed: TrainBatches, mesh: Devices) -> str:
    """Say where the training images are while they are trained on, and why there.

    Args:
        config: the run.
        feed: its batches.
        mesh: the devices.
    """
    if config.data.sizes:
        return "streamed: brought to another size in each stage"
    size, per_call = _bytes(feed.stored_bytes), steps_per_dispatch(config, feed, mesh)
    if per_call > 1:
        return f"{size} resident on each device, {per_call} updates in a call"
    if feed.stored:
        return f"{size} in memory, sent batch by batch{_why_not_resident(config, feed, mesh)}"
    workers, threads = config.data.workers, config.data.threads
    by = f"{workers} worker processes of {max(threads, 1)} threads" if workers else f"{threads} threads"
    reason = "other pixels in each epoch" if feed.geometry.random else f"{size} are too many to hold"
    return f"streamed: decoded as they are needed by {by} ({reason})"


def _why_not_resident(config: RunConfig, feed: TrainBatches, mesh: Devices) -> str:
    device = as_placement(mesh).devices[0]
    if config.train.steps_per_dispatch == 1 or STEPS_PER_DISPATCH.get(device.platform, 1) == 1:
        return ""
    limit = (device.memory_stats() or {}).get("bytes_limit", 0)
    return f": more than {RESIDENT_SHARE:.0%} of a device's {_bytes(limit)}"


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
