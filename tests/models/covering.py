"""Few named networks that have between them every pair of choices that any named network has."""

from __future__ import annotations

import itertools

from resnet_jax.models import MODELS, list_models

_FIELDS = (
    "block", "order", "stem", "stem_pool", "shortcut", "stride_in", "norm", "residual", "weight_standardization",
    "attention", "se_divisor", "se_ratio", "ws_eps", "head_init",
)  # fmt: skip


def _pairs(name: str) -> set[object]:
    config = MODELS[name].config
    values = [(field, getattr(config, field)) for field in _FIELDS]
    values += [("grouped", config.groups > 1), ("wide", config.base_width != 64), ("stages", len(config.widths))]
    return set(itertools.combinations(values, 2))


def covering_names() -> list[str]:
    """Return the names, chosen greedily; of those that add as much the one with fewest blocks.

    >>> names = covering_names()
    >>> len(names) < 40 and set().union(*map(_pairs, names)) == set().union(*map(_pairs, MODELS))
    True
    """
    pairs = {name: _pairs(name) for name in list_models()}
    missing, chosen = set().union(*pairs.values()), []
    while missing:
        best = max(pairs, key=lambda name: (len(pairs[name] & missing), -MODELS[name].config.num_blocks))
        chosen.append(best)
        missing -= pairs[best]
    return chosen
