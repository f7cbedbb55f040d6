"""Heads for several tasks on one backbone: a linear classifier for each, and for pixels one on the map of ``fpn``.

``head_outputs`` lists them with their number of outputs: ``("digit:10", "parity:2", "segmentation:3:pixels")``.
``several_uncertain`` adds a learned log variance for each task (Kendall et al. 2018, arXiv 1705.07115).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from resnet_jax import ops
from resnet_jax.errors import UsageError
from resnet_jax.fields import is_on
from resnet_jax.models import layers
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.dropout import Dropout
from resnet_jax.models.heads.fpn import sum_of_levels
from resnet_jax.models.heads.parts import classify_positions
from resnet_jax.models.heads.registry import register_head
from resnet_jax.models.init import initializer
from resnet_jax.models.paths import HEAD

#: Name of the output, and of the parameter, that holds the log variances.
LOG_VARIANCE = "log_variance"


def parse_outputs(outputs: Sequence[str]) -> list[tuple[str, int, bool]]:
    """Return name, number of outputs, and whether they are per pixel, for each entry of ``head_outputs``.

    Raises:
        UsageError: an entry has another form.

    >>> parse_outputs(["digit:10", "segmentation:3:pixels"])
    [('digit', 10, False), ('segmentation', 3, True)]
    """
    found = []
    for text in outputs:
        name, _, rest = text.partition(":")
        count, _, where = rest.partition(":")
        if not name.isidentifier() or not count.isdecimal() or not int(count) or where not in ("", "pixels"):
            raise UsageError(f"head_outputs {text!r}: need NAME:OUTPUTS or NAME:OUTPUTS:pixels, such as digit:10")
        found.append((name, int(count), where == "pixels"))
    return found


class Several(nn.Module):
    """The heads of several tasks.

    Attributes:
        config: the network's choices.
        uncertain: whether there are log variances.
    """

    config: ResNetConfig
    uncertain: bool = False

    @nn.compact
    def __call__(self, maps: Mapping[str, Array], *, size: Sequence[int], train: bool) -> dict[str, Array]:
        """Return the outputs of every task by its name.

        Args:
            maps: the result of :meth:`resnet_jax.models.ResNet.features`.
            size: sides of the network's input.
            train: whether ``head_dropout`` is active.

        Returns:
            (N, outputs) for a task on whole inputs and (N, *size, outputs) for a task on pixels, all of the latter from
            the map of head ``fpn``. With ``uncertain`` also ``log_variance`` (N, tasks), the same for all examples.
        """
        config, outputs = self.config, {}
        pooled = maps["pooled"]
        if is_on(config.head_dropout):
            pooled = Dropout(config.head_dropout, name="dropout")(pooled, deterministic=not train)
        wanted = parse_outputs(config.head_outputs)
        finest = sum_of_levels(self, config, maps, train=train) if any(pixels for *_, pixels in wanted) else None
        for name, count, of_pixels in wanted:
            if of_pixels and finest is not None:
                of_task = dataclasses.replace(config, num_classes=count)
                small = classify_positions(of_task, finest, train=train, name=f"classifier_{name}")
                outputs[name] = ops.resize_bilinear(small, tuple(size))
            else:
                outputs[name] = layers.Head(
                    count,
                    initializer(config.head_kernel_init),
                    dtype=config.head_dtype,
                    param_dtype=config.param_dtype,
                    scale=config.logit_scale,
                    name=f"classifier_{name}",
                )(pooled)
        if self.uncertain:
            values = self.param(LOG_VARIANCE, nn.initializers.zeros, (len(outputs),), config.param_dtype)
            examples = maps["pooled"].shape[0]
            outputs[LOG_VARIANCE] = jnp.broadcast_to(values.astype(config.head_dtype)[None], (examples, len(values)))
        return outputs


@register_head("several")
def several(config: ResNetConfig) -> Several:
    """Return the heads of several tasks."""
    return Several(config, name=HEAD)


@register_head("several_uncertain")
def several_uncertain(config: ResNetConfig) -> Several:
    """Return the heads of several tasks, with a log variance for each."""
    return Several(config, uncertain=True, name=HEAD)
