"""Programs for chips that are not there: compiled for described TPUs and GPUs, and what their text says."""
