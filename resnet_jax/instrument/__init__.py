"""Hooks into the blocks of any network, used by training, depth and deployment."""
