"""Smaller networks out of trained ones: channels and blocks that go, weights that become zero, and lottery tickets.

=====================  =============================================================================================
:mod:`.channels`       which channels can go, and the network without them
:mod:`.blocks`         the same for whole residual branches
:mod:`.scores`         how much a channel matters: norm scale, activation, filters, or chance
:mod:`.choose`         which channels go, of their scores
:mod:`.structured`     a run directory of a network without them
:mod:`.magnitude`      weights that are small become zero and stay so
:mod:`.lottery`        the same, round after round, from the weights of an early step on
:mod:`.speed`          networks timed in turns
:mod:`.sweep`          several ratios: accuracy against speed
=====================  =============================================================================================
"""
