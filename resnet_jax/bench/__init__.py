"""Measurements of a network without data: speed against other frameworks, compile time, memory requirements.

Everything that computes runs in its own process (:mod:`resnet_jax.bench.serve`), so that this one holds no device and
every compilation is a first one.
"""
