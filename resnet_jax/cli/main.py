"""Dispatch of verbs, and what every verb shares: ``--json``, ``--debug``, errors on one screen, exit codes."""

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

#: What a message may hold of what moves a terminal's cursor.
_LINES = "\n\t"

#: What the exit statuses mean.
STATUSES = (
    "0 done, 1 failed, 2 wrong usage; stopped by a signal 128 + its number (130 Ctrl-C, 143 SIGTERM, 129 a closed "
    "terminal), where training saves first and the same command goes on; 141 nobody reads the output"
)

VERBS = {
    "train": "train a network from a recipe; run the same command again to resume",
    "recipes": "list recipes, with published and expected figures, or show one in full",
    "finetune": "a trained network on other images: probe, classifier, whole network; a table of before and after",
    "search": "search for better options of a recipe, many trials in one program",
    "ablate": "train combinations of choices with several seeds; a table with error bars",
    "lr-range": "which learning rates lower the loss: one short run with a growing rate, drawn",
    "eval": "evaluate a run on one of its splits",
    "predict": "name what is in images",
    "explain": "which parts of images a network's answers come from: maps, their checks, a page",
    "compare": "runs side by side: what differs, curves, and which differ by more than their seeds do",
    "checkpoints": "list the checkpoints of a run, and compare them with their digests",
    "card": "a model card: figures with intervals, calibration, speed and size, how to load it",
    "serve": "a server that names what is in images: a page for people, HTTP for programs",
    "drift": "whether images are still those that a network was made for; watch a folder of new ones",
    "features": "write embeddings of images, or the maps of any stage, to a file",
    "data": "copy a data set into one fast file, or prepare one by name",
    "models": "list the networks with their exact sizes",
    "summary": "a row for every layer of a network: output shape, parameters, multiply-adds",
    "bench": "speed and compile time of a network, against PyTorch and plain Flax",
    "depth": "signals and gradients at every block of a network: arrays, figures, a report",
    "plan": "memory, operations and compile time of a train step before it runs",
    "events": "what happened to a run: starts, saves, restores, damage, stops",
    "quantize": "the network in 8 bits, as ONNX: calibrated or trained for it; accuracy and speed of the file",
    "prune": "a smaller and faster network of a trained one, fine-tuned; or zero weights that stay zero",
    "weights": "bring in another library's weights, or write ours under its names",
    "export": "a network as ONNX, a jax export, a SavedModel or safetensors, checked against the run",
    "doctor": "what this installation has, what is slow and why, and what is broken: text for a report",
    "completion": "completion of words for bash, zsh and fish",
    "launch": "run a verb in several processes on this machine",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``resnet-jax VERB ...`` and exit.

    The status is 0 done, 1 failed, 2 wrong usage; 128 + the signal of what a signal stopped, whether its state is saved
    or there was none to save: 130 Ctrl-C, 143 SIGTERM, 129 a closed terminal; 141 nobody reads the output any more.
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
    except SystemExit as stop:  # help, and usage that tyro refuses
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:  # while JAX is imported, before anything was begun
        print("Stopped at once.", file=sys.stderr)
        status = 130
    status = final_status(status)
    several = started() is not None
    if several and (0 < status < 128 or has_failed()):  # of several that fail, none waits for the others
        leave(status)
    if status > 128:  # threads that hang, in a read from a disk that does not answer, must not keep it here
        end_in_bounded_time(status, 60.0 if several else ENDING)  # the first of several may be drawing pictures
    sys.exit(status)


def run(argv: list[str]) -> int:
    """Run one command; return its exit status."""
    from resnet_jax.training.interrupt import Interrupted

    debug = "--debug" in argv
    if (
        not debug
    ):  # Orbax tells of its own housekeeping through absl, and every one of its threads of the same full disk
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        say_nothing_of_absent_chips()
    try:
        size_limit()  # wrong usage, also where nothing is compiled
        after_import("jax", functools.partial(_prepare_jax, debug))
        with several_processes(argv) as works:
            result = _dispatch(argv) if works else None
    except Interrupted as stopped:
        command = shlex.join(["resnet-jax", *argv])
        print(
            f"Stopped after step {stopped.step:,}; the state is saved. Go on with the same command:\n  {command}",
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
        print("Stopped at once; what was saved before stays.", file=sys.stderr)
        status = 128 + getattr(stopped, "signal", signal.SIGINT)
        exit_now(status)
        return status
    except BrokenPipeError:  # whoever read the output has gone, as `head` does
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
    """Do what is to be done before JAX compiles anything."""
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
        print("\nresnet-jax VERB --help explains a verb; --json, --quiet, --debug and --version go with each.")
        print(f"{FLAG} MODULE or FILE.py, with any verb, first imports code of your own, for what it registers.")
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
