"""From a run directory into the world: explain, export, quantize, prune, describe and serve a trained network."""
