"""How many updates a call of a compiled program makes: as asked for, or what pays where the training set fits."""

from __future__ import annotations

from resnet_jax.data.pipeline import TrainBatches
from resnet_jax.errors import UsageError
from resnet_jax.runs.config import RunConfig
from resnet_jax.training.placement import Devices, as_placement

#: Updates per call where the configuration does not say; 1 on other platforms. A CPU gains as well, 1.3 to 2.3 ms an
#: update (one core: ResNet-20 on digits 28.6 -> 26.2 ms, two blocks of 8 and 16 channels 4.1 -> 2.4 ms), which is
#: nothing to a larger step, and Ctrl-C waits for the end of a call. For GPUs and TPUs a guess: none was at hand.
STEPS_PER_DISPATCH: dict[str, int] = {"gpu": 16, "tpu": 16}

#: Share of a device's memory that the training set may take before that default falls back to single calls.
RESIDENT_SHARE = 0.25


def steps_per_dispatch(config: RunConfig, feed: TrainBatches, mesh: Devices) -> int:
    """Return how many updates a call makes: what the configuration says, or what pays on these devices.

    Raises:
        UsageError: several are asked for and the training set cannot lie on the devices; it says why.
    """
    wanted = config.train.steps_per_dispatch
    if wanted == 1:
        return 1
    device = as_placement(mesh).devices[0]
    if wanted is None:
        limit = (device.memory_stats() or {}).get("bytes_limit", 0)
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
