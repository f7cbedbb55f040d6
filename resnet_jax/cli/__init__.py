"""The command line ``resnet-jax``: one short file per verb, no logic of its own."""

from resnet_jax.cli.main import main

__all__ = ["main"]
