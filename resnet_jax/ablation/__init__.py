"""Ablations: a matrix of configurations, with several seeds each, in one table with error bars and one figure.

``grid`` defines the cells, ``cell`` trains one of them, ``table`` formats the results, ``directory`` knows the files,
and ``ablate`` in ``run`` goes through all cells and resumes an interrupted ablation.
"""
