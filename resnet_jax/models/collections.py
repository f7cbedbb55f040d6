"""Variable collections that hooks read and write in a block, and packed kernels. Most networks have none of them.

Their layout is that of the parameters: stacked where blocks run in a loop (:mod:`resnet_jax.instrument.hooks`).
"""

#: Numbers whose gradients are measurements, by block and point. Gradients pass through :func:`resnet_jax.ops.tap`.
PROBES = "probes"
#: Numbers that hooks use, by block.
GATES = "gates"
#: What hooks have written, by block.
SIGNALS = "signals"
#: Kernels in the order in which this processor's compiled convolution reads them; they replace those in ``params``
#: (:func:`resnet_jax.weights.prepare.prepare_for_inference`).
PACKED = "packed"
#: The collections that a loop over blocks carries along its leading axis. Pass them to ``nn.scan`` as
#: ``variable_axes={**BLOCK_AXES, ...}``.
BLOCK_AXES = {PROBES: 0, GATES: 0, SIGNALS: 0, PACKED: 0}
