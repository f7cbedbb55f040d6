"""Knowledge distillation: classification in which the network also learns from a teacher's outputs for the same
images.
"""

from __future__ import annotations

import dataclasses

import jax

from resnet_jax.errors import UsageError
from resnet_jax.tasks.classification import Classification
from resnet_jax.tasks.config import DistillConfig
from resnet_jax.tasks.losses import soft_target_loss
from resnet_jax.tasks.task import Batch, Task

#: The field of a batch that contains the teacher's logits, (N, K).
TEACHER = "teacher"


@dataclasses.dataclass(frozen=True)
class Distillation(Classification):
    """Classification with a teacher, for training: (1 - w) times its loss plus w T^2 KL(teacher || network).

    Hinton et al., 2015 (arXiv 1503.02531). A batch has the teacher's logits, (N, K), in the field :data:`TEACHER`.
    Without them there is no loss, so evaluation, which has no teacher, uses plain :class:`.Classification`. Class
    weights and label smoothing apply to the first term.

    Attributes:
        temperature: T, for the probabilities of both networks.
        weight: w, the teacher's share, in (0, 1].

    >>> import jax.numpy as jnp
    >>> task = Distillation(2, weight=1.0)
    >>> logits = jnp.array([[1.0, 3.0]])
    >>> task.loss(logits, {"label": jnp.array([0]), TEACHER: logits}).tolist()
    [0.0]
    """

    temperature: float = 4.0
    weight: float = 0.9

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Return the loss of every example, (N,).

        Raises:
            UsageError: the batch has no logits of a teacher, or logits of another shape. Raised while tracing.
        """
        if TEACHER not in batch or batch[TEACHER].shape != outputs.shape:
            found = f"has shape {batch[TEACHER].shape}" if TEACHER in batch else "is missing"
            raise UsageError(f"distillation needs the teacher's logits {outputs.shape} in the batch: {TEACHER} {found}")
        soft = soft_target_loss(outputs, batch[TEACHER], temperature=self.temperature)
        if self.weight == 1.0:
            return self.weight * soft
        return (1.0 - self.weight) * super().loss(outputs, batch) + self.weight * soft


def distilled(task: Task, config: DistillConfig) -> Distillation:
    """Return a task with the distillation loss.

    Raises:
        UsageError: the task is not classification.
    """
    if type(task) is not Classification:
        raise UsageError(f"task.distill goes with task.kind classification, not with {task.kind}")
    fields = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
    return Distillation(**fields, temperature=config.temperature, weight=config.weight)
