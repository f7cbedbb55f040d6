"""Smaller networks from trained ones: remove channels and blocks, set weights to zero, find lottery tickets.

=====================  =============================================================================================
:mod:`.channels`       which channels can be removed, and the network without them
:mod:`.blocks`         the same for whole residual branches
:mod:`.scores`         importance of a channel: norm scale, activation, filters or random
:mod:`.choose`         which channels to remove, given their scores
:mod:`.structured`     a run directory of a network without them
:mod:`.magnitude`      small weights become zero and stay zero
:mod:`.lottery`        the same in rounds, starting from the weights of an early step
:mod:`.speed`          networks timed in turns
:mod:`.sweep`          several ratios: accuracy against speed
=====================  =============================================================================================
"""
