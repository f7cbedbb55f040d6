"""BiT-HyperRule: fine-tuning settings for a pre-trained network, determined by the size of the data set alone.

Kolesnikov et al. 2020, "Big Transfer (BiT): General Visual Representation Learning" (arXiv 1912.11370), section 3.3:
SGD with learning rate 0.003 and momentum 0.9, batches of 512, the rate divided by 10 at 30, 60 and 90% of the length,
no weight decay, and a classifier initialized to zero.

======  ===============  =======  =====
task    examples         updates  mixup
======  ===============  =======  =====
small   below 20,000     500      none
medium  below 500,000    10,000   0.1
large   500,000 or more  20,000   0.1
======  ===============  =======  =====

Images of less than 96 x 96 pixels in area are resized to 160 and cropped to 128 at random, larger ones to 448 and 384.

The authors' code (google-research/big_transfer, ``bit_hyperrule.py``) differs in three details: it warms up linearly
over 100, 500 and 500 updates, which the paper does not mention and which is adopted here; for small tasks it divides
the rate at 40, 60 and 80%; and it resizes large images to 512 and 480, as the paper does only for its largest network.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from resnet_jax.errors import UsageError

#: Number of examples from which a task is medium, and large.
MEDIUM, LARGE = 20_000, 500_000
#: Area in pixels from which an image is large.
LARGE_AREA = 96 * 96
BATCH, RATE, MOMENTUM = 512, 0.003, 0.9
DROPS = ("30%", "60%", "90%")


@dataclasses.dataclass(frozen=True)
class BitRule:
    """How to fine-tune.

    Attributes:
        task: the size class of the data set.
        steps: number of updates.
        warmup: number of updates over which the rate rises, as in the authors' code.
        mixup: alpha of mixup; 0 for none.
        resize: side that images are resized to.
        crop: side of the random crop, and of the images in evaluation.
        batch_size: examples per update.
        learning_rate: learning rate before it drops.
        momentum: momentum of SGD.
        milestones: when the rate is divided by 10.
        weight_decay: none.
    """

    task: Literal["small", "medium", "large"]
    steps: int
    warmup: int
    mixup: float
    resize: int
    crop: int
    batch_size: int = BATCH
    learning_rate: float = RATE
    momentum: float = MOMENTUM
    milestones: tuple[str, ...] = DROPS
    weight_decay: float = 0.0

    def with_batch(self, batch_size: int) -> BitRule:
        """Return the rule for another batch size: as many examples, at a rate proportional to the batch size.

        A batch of b takes 512 / b times the updates at b / 512 of the rate (linear scaling; Goyal et al. 2017, arXiv
        1706.02677), as in the authors' own notebook for TensorFlow 2. The paper uses batches of 512 throughout.

        Raises:
            UsageError: for fewer than one example.

        >>> small = bit_rule(1_000, (32, 32)).with_batch(128)
        >>> small.steps, small.warmup, small.learning_rate
        (2000, 400, 0.00075)
        """
        if batch_size < 1:
            raise UsageError(f"a batch has one example at least, got {batch_size}")
        factor = self.batch_size / batch_size
        return dataclasses.replace(
            self,
            steps=round(self.steps * factor),
            warmup=round(self.warmup * factor),
            batch_size=batch_size,
            learning_rate=float(f"{self.learning_rate / factor:.6g}"),
        )


def bit_rule(examples: int, image_size: tuple[int, int]) -> BitRule:
    """Return how to fine-tune a network on a data set.

    Args:
        examples: number of training examples.
        image_size: height and width of its images in pixels.

    Raises:
        UsageError: if there are no examples, or images have no pixels.

    >>> rule = bit_rule(50_000, (32, 32))
    >>> rule.task, rule.steps, rule.mixup, (rule.resize, rule.crop)
    ('medium', 10000, 0.1, (160, 128))
    """
    if examples < 1 or min(image_size) < 1:
        raise UsageError(f"the rule is for one image of one pixel at least, got {examples} of {image_size}")
    resize, crop = (160, 128) if image_size[0] * image_size[1] < LARGE_AREA else (448, 384)
    if examples < MEDIUM:
        return BitRule("small", 500, 100, 0.0, resize, crop)
    if examples < LARGE:
        return BitRule("medium", 10_000, 500, 0.1, resize, crop)
    return BitRule("large", 20_000, 500, 0.1, resize, crop)
