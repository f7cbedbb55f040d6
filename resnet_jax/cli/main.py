"""Dispatch of the verbs, and what all verbs share: ``--json``, ``--debug``, error messages and exit statuses."""

from __future__ import annotations

import functools
import importlib
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import Any

from resnet_jax import __version__
from resnet_jax.cli.imports import FLAG, import_given
from resnet_jax.cli.options import ANYWHERE, HELP
from resnet_jax.cli.several import said_elsewhere, several_processes
from resnet_jax.cli.streams import READER_GONE, final_status, open_streams, plain_log_lines, steady_streams
from resnet_jax.cli.trouble import explain, with_flags
from resnet_jax.errors import CheckError, ResNetJaxError, unknown
from resnet_jax.report.text import visible
from resnet_jax.runtime.absent_chips import say_nothing_of_absent_chips
from resnet_jax.runtime.after_import import after_import
from resnet_jax.runtime.alarm import let_jax_compile_without
from resnet_jax.runtime.cache import VARIABLE, keep_compiled_programs, program_directory
from resnet_jax.runtime.distributed import started
from resnet_jax.runtime.ending import ENDING, Stopped, end_in_bounded_time, exit_now, own_process, say_no_more
from resnet_jax.runtime.malloc import keep_freed_memory
from resnet_jax.runtime.programs import size_limit
from resnet_jax.runtime.together import has_failed, leave

#: Characters a message may contain although they move the terminal's cursor.
_LINES = "\n\t"

#: The meaning of the exit statuses.
STATUSES = (
    "0 success, 1 failure, 2 wrong usage, 128 + the signal's number after a signal (130 Ctrl-C, 143 SIGTERM, 129 a "
    "closed terminal; training saves first, and the same command resumes it), 141 nobody reads the output"
)

VERBS = {
    "train": "train a network from a recipe or on your data; run the same command again to resume",
    "recipes": "list the recipes with published and expected figures, or show one in full",
    "finetune": "fine-tune a trained network on other images: linear probe, classifier, whole network",
    "search": "search for better options of a recipe, with many trials in one compiled program",
    "ablate": "train combinations of choices with several seeds, and tabulate them with error bars",
    "lr-range": "find useful learning rates in one short run with a growing rate",
    "eval": "evaluate a run on one of its splits, or on other images",
    "predict": "predict the classes, labels, values or boxes of images",
    "explain": "show which parts of images a prediction is based on: heatmaps, sanity checks, a report",
    "compare": "compare runs: configurations, curves, and which differ by more than their seeds do",
    "checkpoints": "list the checkpoints of a run, and verify their digests",
    "card": "write a model card: figures with intervals, calibration, speed, size, how to load it",
    "serve": "serve predictions over HTTP, with a web page to try it",
    "drift": "test whether images still match those a network was trained for; watch a folder",
    "features": "write embeddings of images, or the feature maps of any stage, to a file",
    "data": "check, draw or convert a data set, or prepare one by name",
    "models": "list the named networks with their exact sizes",
    "summary": "list the layers of a network: output shape, parameters, multiply-adds",
    "bench": "measure speed and compile time of a network, against PyTorch and plain Flax",
    "depth": "examine signals and gradients at every block of a network: arrays, figures, a report",
    "plan": "estimate memory, operations and compile time of a train step before it runs",
    "events": "show what happened to a run: starts, saves, restores, damage, stops",
    "quantize": "quantize a network to 8 bits as ONNX, and measure accuracy and speed of the file",
    "prune": "prune a trained network: fewer channels and blocks, or weights that stay zero",
    "weights": "import another library's weights, export ours, and fetch published ones by name",
    "export": "export a network as ONNX, jax.export, SavedModel or safetensors, checked against the run",
    "doctor": "report what this installation has, what is slow and why, and what is broken",
    "completion": "print a completion script for bash, zsh or fish",
    "launch": "run a verb in several processes on this machine",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``resnet-jax VERB ...`` and exit.

    The status is 0 for success, 1 for failure and 2 for wrong usage. If a signal stopped the command, it is 128 + the
    signal's number, whether or not there was a state to save: 130 for Ctrl-C, 143 for SIGTERM, 129 for a closed
    terminal. It is 141 if nobody reads the output any more.
    """
    open_streams()
    steady_streams()
    own_process()
    plain_log_lines()
    if "--debug" not in (sys.argv if argv is None else argv):  # threads of Orbax that a full disk stops, at their end
        sys.unraisablehook = say_no_more
    keep_freed_memory()
    try:
        status = run(list(sys.argv[1:] if argv is None else argv))
    except SystemExit as stop:  # help, and usage that tyro rejects
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:  # while JAX is imported, before anything was started
        print("Stopped at once.", file=sys.stderr)
        status = 130
    status = final_status(status)
    several = started() is not None
    if several and (0 < status < 128 or has_failed()):  # one of several processes failed: do not wait for the others
        leave(status)
    if status > 128:  # threads that hang, such as in a read from an unresponsive disk, must not block the exit
        end_in_bounded_time(status, 60.0 if several else ENDING)  # the first process may be drawing figures
    sys.exit(status)


def run(argv: list[str]) -> int:
    """Run one command and return its exit status."""
    from resnet_jax.training.interrupt import Interrupted

    debug = "--debug" in argv
    if not debug:  # Orbax logs its housekeeping through absl, and each of its threads reports the same full disk
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        say_nothing_of_absent_chips()
    try:
        size_limit()  # report wrong usage even if nothing is compiled
        after_import("jax", functools.partial(_prepare_jax, debug))
        with several_processes(argv) as works:
            result = _dispatch(argv) if works else None
    except Interrupted as stopped:
        command = shlex.join(["resnet-jax", *argv])
        print(
            f"Stopped after step {stopped.step:,}; the state is saved. To resume, run the same command:\n  {command}",
            file=sys.stderr,
        )
        return 128 + (stopped.request.signal or 0)
    except Stopped as stopped:
        print(f"Stopped by {stopped}.", file=sys.stderr)
        return 128 + stopped.signal
    except CheckError as failed:
        print(visible(str(failed), keep=_LINES), file=sys.stderr)
        if "--json" in argv:
            print(json.dumps(failed.result), flush=True)
        return failed.exit_code
    except ResNetJaxError as error:
        if debug:
            raise
        if not said_elsewhere(error):
            print(f"error: {visible(with_flags(str(error)), keep=_LINES)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stopped:
        if debug:
            raise
        print("Stopped at once; everything saved before is kept.", file=sys.stderr)
        status = 128 + getattr(stopped, "signal", signal.SIGINT)
        exit_now(status)
        return status
    except BrokenPipeError:  # the reader of the output is gone, as after `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except Exception as error:
        if debug:
            raise
        said = visible(explain(error), keep=_LINES)
        print(f"error: {said}\nRun again with --debug for the traceback.", file=sys.stderr)
        return 1
    if result is not None and "--json" in argv:
        print(json.dumps(result), flush=True)
    return 0


def _prepare_jax(debug: bool) -> None:
    """Configure JAX before it compiles anything."""
    if not debug:
        let_jax_compile_without()
    keep_compiled_programs()


def _dispatch(argv: list[str]) -> Any:
    argv = import_given(argv)
    if argv and argv[0] == "help":  # help train digits: train digits --help
        argv = [*argv[1:], "--help"]
    if not argv or argv[0] in HELP or argv[0] in ANYWHERE:
        print("usage: resnet-jax VERB ...\n")
        for name, text in VERBS.items():
            print(f"  {name:<11} {text}")
        print("\nresnet-jax VERB --help explains a verb. Every verb takes --json, --quiet, --debug and --version.")
        print(f"{FLAG} MODULE (or FILE.py), with any verb, first imports your own code, to use what it registers.")
        print(f"Exit status: {STATUSES}.")
        print(
            f"Compiled programs are kept in {program_directory() or 'no directory'}; {VARIABLE} names another, or off."
        )
        return None
    if "--version" in argv:
        print(__version__)
        return None
    if argv[0] not in VERBS:
        raise unknown("verb", argv[0], VERBS)
    module = importlib.import_module(f"resnet_jax.cli.{argv[0].replace('-', '_')}")
    return module.run(argv[1:])
