"""Ablations: a matrix of configurations, several seeds each, into one table with error bars and one figure.

``grid`` says which cells there are, ``cell`` trains one of them, ``table`` writes what came out, ``directory`` knows
the files, and ``ablate`` in ``run`` goes through it all, resumed where it stopped.
"""
