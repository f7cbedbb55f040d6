"""Named runs as YAML: what to train, where the recipe comes from, and what it reached."""
