"""Where the training images are stored while a run trains: resident on the devices, in memory, or read as needed."""

from __future__ import annotations

from resnet_jax.data.pipeline import TrainBatches
from resnet_jax.errors import UsageError
from resnet_jax.runs.config import RunConfig
from resnet_jax.runtime.processes import greatest
from resnet_jax.training.placement import Devices, as_placement

#: Updates per call if the configuration does not say; 1 on other platforms. A CPU gains as well, 1.3 to 2.3 ms per
#: update (one core: ResNet-20 on digits 28.6 -> 26.2 ms, two blocks of 8 and 16 channels 4.1 -> 2.4 ms), which is
#: negligible for a larger step, and Ctrl-C waits for the end of a call. For GPUs and TPUs this is a guess: none was at
#: hand.
STEPS_PER_DISPATCH: dict[str, int] = {"gpu": 16, "tpu": 16}

#: Share of a device's memory that the training set may take before that default falls back to single calls.
RESIDENT_SHARE = 0.25


def steps_per_dispatch(config: RunConfig, feed: TrainBatches, mesh: Devices) -> int:
    """Return the number of updates per call: what the configuration says, or what is faster on these devices.

    Raises:
        UsageError: if several are requested and the training set does not fit on the devices; the message says why.
    """
    wanted = config.train.steps_per_dispatch
    if wanted == 1:
        return 1
    device = as_placement(mesh).devices[0]
    if wanted is None:
        limit = _memory_limit(mesh)
        fits = feed.stored and feed.stored_bytes <= RESIDENT_SHARE * limit
        return STEPS_PER_DISPATCH.get(device.platform, 1) if fits else 1
    if not feed.stored:
        reason = f"the training images are read from {config.data.source} as they are needed, being too many to hold"
        if feed.geometry.random:
            reason = "data.augment makes other pixels in each epoch, on the host"
        elif config.data.sizes:
            reason = "data.sizes brings them to another size in each stage"
        raise UsageError(
            f"train.steps_per_dispatch {wanted} takes its batches from pixels that stay on the devices, but {reason}; "
            "set it to 1"
        )
    return wanted


def fits_resident(feed: TrainBatches, mesh: Devices) -> bool:
    """Return whether a training set fits on the devices with room to spare; on CPUs, whether it is in memory."""
    platform = as_placement(mesh).platform
    return feed.stored and (platform == "cpu" or feed.stored_bytes <= RESIDENT_SHARE * _memory_limit(mesh))


def _memory_limit(mesh: Devices) -> int:
    """Return a device's memory in bytes, the smallest over all processes; 0 if unknown."""
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in as_placement(mesh).local_devices]
    return int(-greatest([-min(limits, default=0)])[0])


def describe_feed(config: RunConfig, feed: TrainBatches, mesh: Devices) -> str:
    """Describe where the training images are stored during training, and why there.

    Args:
        config: the run.
        feed: its batches.
        mesh: the devices.
    """
    if config.data.sizes:
        return f"brought to another size in each stage: {', '.join(config.data.sizes)}"
    per_call = steps_per_dispatch(config, feed, mesh)
    size = _bytes(feed.stored_bytes)
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
    limit = _memory_limit(mesh)
    return f": more than {RESIDENT_SHARE:.0%} of a device's {_bytes(limit)}"


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
