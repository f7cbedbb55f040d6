"""Variable collections that hooks read and write in a block, and packed kernels; most networks have none of them.

They have the layout of the parameters, stacked where blocks run in a loop (:mod:`resnet_jax.instrument.hooks`).
"""

#: Numbers whose gradients are measurements, by block and point; gradients pass through :func:`resnet_jax.ops.tap`.
PROBES = "probes"
#: Numbers that hooks act with, by block.
GATES = "gates"
#: What hooks wrote, by block.
SIGNALS = "signals"
#: Kernels in the order in which the compiled convolution of this processor reads them, in the place of those of
#: ``params`` (:func:`resnet_jax.weights.prepare.prepare_for_inference`).
PACKED = "packed"
#: The collections that a loop over blocks has to carry along its leading axis, as ``nn.scan`` is told it with
#: ``variable_axes={**BLOCK_AXES, ...}``.
BLOCK_AXES = {PROBES: 0, GATES: 0, SIGNALS: 0, PACKED: 0}
