"""Search for the options of a recipe: Optuna proposes, and what it proposes is trained as lanes of one program.

``resnet-jax search RECIPE --space FILE``. Trials that differ only in what arrays can carry (rates, decay, smoothing)
are lanes of one compiled population (:mod:`resnet_jax.runs.lanes`); successive halving stops the worse ones where they
are compared, and their lanes go on with new trials, without compilation. The study is an SQLite file in the directory:
a search that was killed goes on there with the same command.
"""
