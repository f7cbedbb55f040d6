"""Configuration of the tasks: the meaning of the network's outputs, and the loss to minimize."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from annotated_types import Interval, Lt

from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1, BelowOne, NotNegative, Positive, check_fields

Open01 = Annotated[float, Interval(gt=0.0, lt=1.0)]
AboveZero = Annotated[float, Interval(gt=0.0, le=1.0)]
Positives = Literal["pair", "class"]
"""What an example of one side should find on the other: only its own partner, or everything of its class in the
batch."""
BelowZero = Annotated[float, Lt(0.0)]


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Knowledge distillation: the network also learns from the probabilities of another network, its teacher."""

    teacher: str | None = None
    """Run directory of a teacher, trained or imported, for classification. The loss becomes (1 - weight) times
    task.loss plus weight T^2 KL(teacher || network) at temperature T (Hinton et al. 2015). The teacher sees the same
    augmented images, and its classes must have the same names."""
    temperature: Positive = 4.0
    """Temperature T by which the outputs of teacher and network are divided. Higher values give softer
    probabilities."""
    weight: AboveZero = 0.9
    """The teacher's share of the loss. With 1, the network learns without labels."""

    def __post_init__(self) -> None:
        """Reject numbers out of range, and options that are set without a teacher."""
        check_fields(self, "task.distill.")
        for field in ("temperature", "weight"):
            default = getattr(type(self), field)
            if self.teacher is None and getattr(self, field) != default:
                raise UsageError(f"task.distill.{field} {getattr(self, field):g} needs task.distill.teacher")


@dataclasses.dataclass(frozen=True)
class DetectionConfig:
    """Detection: the loss, which detections are kept, and the headline metric."""

    headline: Literal["ap50", "map"] = "ap50"
    """Metric that selects the best state: average precision at IoU 0.5 (ap50), or its mean over 0.5, 0.55, ... 0.95
    (map)."""
    box_loss: Literal["giou", "smooth_l1"] | None = None
    """Loss of the boxes: giou, or smooth_l1 with head retinanet. None: as in the papers, giou for fcos, smooth_l1 for
    retinanet."""
    focal_alpha: Open01 = 0.25
    """Weight of objects in the focal loss. Background has weight 1 - alpha."""
    focal_gamma: NotNegative = 2.0
    """Exponent of 1 - p in the focal loss. 0 gives cross-entropy."""
    score_threshold: BelowOne = 0.05
    """Minimum score of a detection (exclusive)."""
    nms_iou: AboveZero = 0.6
    """IoU above which non-maximum suppression drops the lower-scoring of two boxes of a class."""
    candidates: AtLeast1 = 400
    """Number of top-scoring candidates per image that enter non-maximum suppression."""
    max_detections: AtLeast1 = 100
    """Maximum number of detections per image."""

    def __post_init__(self) -> None:
        """Reject numbers out of range."""
        check_fields(self, "task.detection.")


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """The meaning of the outputs. An option that the kind of task does not use is rejected."""

    kind: str | None = None
    """Kind of task: classification, multilabel, regression, binary (yes or no from one output), segmentation,
    detection, multitask (several heads), contrastive (two towers, for examples with two inputs), or a task registered
    in Python. None: multitask if there are heads, otherwise chosen from the labels (classes, rows of 0 and 1, numbers,
    a class per pixel, or boxes)."""
    loss: str | None = None
    """Loss function. For classification: cross_entropy (the default), bce (one against all), mse (one-hot) or, for
    noisy labels, generalized_cross_entropy, symmetric_cross_entropy or soft_bootstrap. For multilabel and binary: bce.
    For regression: mse (the default), l1 or huber."""
    label_smoothing: BelowOne = 0.0
    """Share of the target that is spread over all classes, or over yes and no."""
    class_weights: Literal["none", "balanced"] | tuple[float, ...] = "none"
    """Weights of the classes in the loss: none, balanced (examples / (classes x examples of the class); for
    segmentation, labeled pixels instead of examples), or one number per class."""
    positive_weights: Literal["none", "balanced"] | tuple[float, ...] = "none"
    """Weights of positive labels in the loss, for multilabel and binary: none, balanced (examples without the label /
    examples with it), or one number per label."""
    threshold: tuple[Open01, ...] = (0.5,)
    """Decision threshold. For multilabel and binary: probability above which the answer is yes, one number or one per
    label. For detection: score from which a box is drawn and predicted."""
    huber_delta: Positive = 1.0
    """Error up to which loss huber is quadratic, for regression. Larger errors count linearly."""
    gce_q: AboveZero = 0.7
    """Parameter q of loss generalized_cross_entropy: cross-entropy as q approaches 0, half the mean absolute error at
    1."""
    sce_alpha: Positive = 0.1
    """Weight of cross-entropy in loss symmetric_cross_entropy."""
    sce_beta: Positive = 1.0
    """Weight of reverse cross-entropy in loss symmetric_cross_entropy."""
    sce_floor: BelowZero = -4.0
    """Value that replaces log 0 in loss symmetric_cross_entropy: the paper's A."""
    bootstrap_beta: AboveZero = 0.95
    """Share of the label in the target of loss soft_bootstrap. The rest is the network's own prediction."""
    dice_weight: NotNegative = 0.0
    """Weight of the Dice loss that is added to cross-entropy, for segmentation."""
    detection: DetectionConfig = dataclasses.field(default_factory=DetectionConfig)
    """Detection."""
    distill: DistillConfig = dataclasses.field(default_factory=DistillConfig)
    """Distillation from a teacher."""
    embedding_width: AtLeast1 = 128
    """Width of the embeddings of both sides, for contrastive."""
    positives: Positives = "class"
    """What counts as a match on the other side, for contrastive: pair (only the partner; others of its class in the
    batch count as wrong) or class (everything of its class in the batch)."""
    standardize: bool = True
    """Learn (target - mean) / deviation of the training set, for regression. Predictions are in the target's units; the
    loss is not."""
    heads: tuple[str, ...] = ()
    """Heads to learn, for multitask, each as NAME:WHAT. WHAT is a number of classes (digit:10), value (age:value,
    numbers), binary, or labels (rows of 0 and 1); for a mask (segmentation:3) it is the class of every pixel. NAME
    stands for a field of the examples called NAME, label_NAME or value_NAME, otherwise for the label; NAME=FIELD:WHAT
    names another field."""
    weights: tuple[Positive, ...] = ()
    """Weights of the heads' losses, for multitask, in the order of heads. Empty: all 1."""
    weighting: Literal["fixed", "uncertainty", "pcgrad"] = "fixed"
    """How to combine the losses, for multitask: fixed (weighted sum), uncertainty (learned log variances, Kendall et
    al. 2018) or pcgrad (conflicting gradients are projected, Yu et al. 2020)."""
    headline: str | None = None
    """Head whose headline metric selects the best state and stops training, for multitask. None: the mean over all
    heads."""

    def __post_init__(self) -> None:
        """Reject numbers out of range."""
        check_fields(self, "task.")
