"""A run directory and what is done with it: train, resume, evaluate, predict, fine-tune, import, analyze."""
