"""``python -m resnet_jax`` and the program ``resnet-jax``: the command line, which Ctrl-C stops even while it loads."""

import sys

from resnet_jax.runtime.cxx.library import begin
from resnet_jax.runtime.ending import stop_quietly
from resnet_jax.runtime.malloc import keep_freed_memory

#: Verbs that run a network: the C++ for the processor is compiled while the modules load, if it is not cached.
COMPUTING = ("train", "ablate", "eval", "predict", "features", "bench", "depth")
#: Arguments with which they do not.
NEVER = {"-h", "--help", "--version"}


def main() -> None:
    """Run the command line and exit."""
    stop_quietly()
    keep_freed_memory()  # before a thread starts, or XLA's may not
    if len(sys.argv) > 1 and sys.argv[1] in COMPUTING and not NEVER & set(sys.argv):
        begin()
    from resnet_jax.cli.main import main as program

    program()


if __name__ == "__main__":
    main()
