"""Model cards: what a network is, its metrics with intervals, its calibration, and how to load it."""
