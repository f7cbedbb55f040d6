"""Measurements of a network without data: speed against other frameworks, compile time, memory before it is spent.

Everything that computes runs in a process of its own (:mod:`resnet_jax.bench.serve`), so that this one holds no device
and every compilation is a first one.
"""
