"""Hooks into the blocks of a network, ours or anybody's, used by training, depth and deployment."""
