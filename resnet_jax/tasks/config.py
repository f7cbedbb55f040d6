"""Configuration of the tasks: what the outputs of the network mean, and the loss that is minimized."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from annotated_types import Interval, Lt

from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1, BelowOne, NotNegative, Positive, check_fields

Open01 = Annotated[float, Interval(gt=0.0, lt=1.0)]
AboveZero = Annotated[float, Interval(gt=0.0, le=1.0)]
Positives = Literal["pair", "class"]
"""What an example of one side is to find on the other: its own partner alone, or all of the batch of its class."""
BelowZero = Annotated[float, Lt(0.0)]


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Knowledge distillation: the network also learns the probabilities of another one, its teacher."""

    teacher: str | None = None
    """classification: a run directory, trained or imported, whose network is the teacher: the loss is then
    (1 - weight) times task.loss plus weight T^2 KL(teacher || network), of probabilities at temperature T (Hinton et
    al. 2015). The teacher sees the same augmented images, and its classes must have the same names."""
    temperature: Positive = 4.0
    """Of the teacher: T, by which both networks' outputs are divided; higher is softer."""
    weight: AboveZero = 0.9
    """Of the teacher: its share of the loss; 1 learns without labels."""

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and those of no teacher."""
        check_fields(self, "task.distill.")
        for field in ("temperature", "weight"):
            default = getattr(type(self), field)
            if self.teacher is None and getattr(self, field) != default:
                raise UsageError(f"task.distill.{field} {getattr(self, field):g} needs task.distill.teacher")


@dataclasses.dataclass(frozen=True)
class DetectionConfig:
    """Boxes: the loss, which detections are kept, and the headline."""

    headline: Literal["ap50", "map"] = "ap50"
    """Average precision that selects the best state: at IoU 0.5, or the mean over 0.5, 0.55, ... 0.95."""
    box_loss: Literal["giou", "smooth_l1"] | None = None
    """Loss of a box: giou or, of head retinanet, smooth_l1. Default: the paper's: fcos giou, retinanet smooth_l1."""
    focal_alpha: Open01 = 0.25
    """Weight of the focal loss of an object; background has 1 - alpha."""
    focal_gamma: NotNegative = 2.0
    """Power of 1 - p in the focal loss; 0 makes it a cross-entropy."""
    score_threshold: BelowOne = 0.05
    """Scores up to it are no detections."""
    nms_iou: AboveZero = 0.6
    """Overlap above which the worse of two boxes of a class is dropped."""
    candidates: AtLeast1 = 400
    """So many of the best scores of an image go into non-maximum suppression."""
    max_detections: AtLeast1 = 100
    """Detections of an image at most."""

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        check_fields(self, "task.detection.")


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """What the outputs mean. A setting that the kind of task does not use is refused."""

    kind: str | None = None
    """classification, multilabel, regression, binary (yes or no by one output), segmentation, detection, multitask
    (several heads), contrastive (two towers, of examples with two inputs), or a task registered in Python. Default:
    multitask with heads, else what the labels are: classes, rows of 0 and 1, numbers, a class of every pixel, or
    boxes."""
    loss: str | None = None
    """classification: cross_entropy (the default), bce (one against all), mse (one-hot), or for noisy labels
    generalized_cross_entropy, symmetric_cross_entropy or soft_bootstrap; multilabel and binary: bce; regression: mse
    (the default), l1 or huber."""
    label_smoothing: BelowOne = 0.0
    """Share of the target spread over all classes, or, of a yes or no, over both."""
    class_weights: Literal["none", "balanced"] | tuple[float, ...] = "none"
    """Factors of the loss by class: none, balanced (examples / (classes x examples of the class); of segmentation
    labelled pixels in place of examples), or one a class."""
    positive_weights: Literal["none", "balanced"] | tuple[float, ...] = "none"
    """multilabel and binary: factors of the loss of a yes: none, balanced (examples without / examples with the label),
    or one a label."""
    threshold: tuple[Open01, ...] = (0.5,)
    """multilabel and binary: probability above which it is a yes; one, or one a label. detection: score from which a
    box is drawn and predicted."""
    huber_delta: Positive = 1.0
    """regression with loss huber: errors up to it count by their square, larger ones by their size."""
    gce_q: AboveZero = 0.7
    """loss generalized_cross_entropy: q; towards 0 it is cross-entropy, at 1 the mean absolute error, halved."""
    sce_alpha: Positive = 0.1
    """loss symmetric_cross_entropy: factor of cross-entropy."""
    sce_beta: Positive = 1.0
    """loss symmetric_cross_entropy: factor of reverse cross-entropy."""
    sce_floor: BelowZero = -4.0
    """loss symmetric_cross_entropy: what stands for the logarithm of 0, the paper's A."""
    bootstrap_beta: AboveZero = 0.95
    """loss soft_bootstrap: share of the label in the target; the rest is what the network predicts."""
    dice_weight: NotNegative = 0.0
    """segmentation: factor of the Dice loss, which is added to the cross-entropy."""
    detection: DetectionConfig = dataclasses.field(default_factory=DetectionConfig)
    """Boxes."""
    distill: DistillConfig = dataclasses.field(default_factory=DistillConfig)
    """A teacher."""
    embedding_width: AtLeast1 = 128
    """contrastive: numbers of an embedding, of either side."""
    positives: Positives = "class"
    """contrastive: what is to be found on the other side: pair, the partner alone, where others of its class in the
    batch count as wrong; or class, all of its class in the batch."""
    standardize: bool = True
    """regression: the network learns (target - mean) / deviation, of the training set; predictions are in the target's
    units, the loss is not."""
    heads: tuple[str, ...] = ()
    """multitask: what is learned, NAME:WHAT each: a number of classes (digit:10), value (age:value, numbers), binary or
    labels (rows of 0 and 1). NAME is a field of the examples, label_NAME or value_NAME; one that no field has is the
    label; NAME=FIELD:WHAT names another. Of a mask (segmentation:3) a class of every pixel is learned."""
    weights: tuple[Positive, ...] = ()
    """multitask: factor of the loss of each head, in their order; all 1 if none are given."""
    weighting: Literal["fixed", "uncertainty", "pcgrad"] = "fixed"
    """multitask: fixed (the sum of the weighted losses), uncertainty (learned log variances, Kendall et al. 2018), or
    pcgrad (gradients that oppose each other are projected, Yu et al. 2020)."""
    headline: str | None = None
    """multitask: the head whose headline metric selects and stops; None: the mean over all heads."""

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        check_fields(self, "task.")
