"""Variable collections that hooks read and write in a block; without hooks no network has them.

They have the layout of the parameters, stacked where blocks run in a loop (:mod:`resnet_jax.instrument.hooks`).
"""

#: Numbers whose gradients are measurements, by block and point; gradients pass through :func:`resnet_jax.ops.tap`.
PROBES = "probes"
#: Numbers that hooks act with, by block.
GATES = "gates"
#: What hooks wrote, by block.
SIGNALS = "signals"
#: A loop over blocks must carry them along its leading axis: ``nn.scan(..., variable_axes={**BLOCK_AXES, ...})``.
BLOCK_AXES = {PROBES: 0, GATES: 0, SIGNALS: 0}
