"""Model cards: what a network is, how good it is with intervals, how well its probabilities fit, and how to load it."""
