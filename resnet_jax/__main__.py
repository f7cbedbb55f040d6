"""``python -m resnet_jax``: the command line ``resnet-jax``."""

from resnet_jax.cli.main import main

if __name__ == "__main__":
    main()
