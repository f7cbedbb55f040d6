"""Programs for absent chips: compiled for described TPUs and GPUs, and analyzed by their text."""
