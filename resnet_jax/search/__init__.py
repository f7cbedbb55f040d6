"""Search for better options of a recipe: Optuna proposes trials, which are trained as lanes of one program.

``resnet-jax search RECIPE --space FILE``. Trials that differ only in array-valued options (rates, decay, smoothing) are
lanes of one compiled population (:mod:`resnet_jax.runs.lanes`). Successive halving stops the worse ones where they are
compared, and their lanes continue with new trials, without compilation. The study is an SQLite file in the directory: a
search that was killed resumes there with the same command.
"""
