"""``python -m resnet_jax`` and the program ``resnet-jax``: the command line, which Ctrl-C stops while it is loaded."""

from resnet_jax.runtime.ending import stop_quietly


def main() -> None:
    """Run the command line and exit."""
    stop_quietly()
    from resnet_jax.cli.main import main as program

    program()


if __name__ == "__main__":
    main()
