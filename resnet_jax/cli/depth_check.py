"""``resnet-jax depth check MODEL``: fail if signals or gradients do not get through at initialization."""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from resnet_jax.cli.depth_options import draw, make_directory, save
from resnet_jax.cli.named import require_networks
from resnet_jax.cli.options import HOW_COMPUTED, Common, console_for, parse
from resnet_jax.errors import CheckError, RunError, UsageError
from resnet_jax.fields import AtLeast0, AtLeast1, check_fields
from resnet_jax.models.rows import MODELS
from resnet_jax.models.spec import ModelChanges
from resnet_jax.report.text import say, working
from resnet_jax.runtime.paths import user_path


@dataclasses.dataclass(frozen=True)
class CheckOptions:
    """Options of ``depth check``."""

    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NETWORK")]
    """The network, by a name that `resnet-jax models` lists."""
    batch: AtLeast1 = 4
    """Number of images, whose pixels are independent N(0, 1) draws."""
    image_size: AtLeast1 | None = None
    """Side of the images in pixels (default: the network's own size)."""
    draws: int = 2
    """Number of random initializations; the verdict is based on their geometric mean."""
    seed: AtLeast0 = 0
    """Seed of the weights and images."""
    limit: float = 100.0
    """The largest acceptable change of the root mean square, beyond a power of depth, over all blocks or any stretch of
    them."""
    norm_mode: Literal["batch", "running"] = "batch"
    """Which statistics batch norm uses: those of the batch, or its running averages (running)."""
    out: Path | None = None
    """Directory for check.npz, figures and report.html (default: nothing is written)."""
    model: ModelChanges = dataclasses.field(default_factory=ModelChanges)
    """Changes to the named network. --dtype, --execution and --remat are short for --model.dtype and so on."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Run the check, print the verdict and return it.

    Raises:
        CheckError: if signals or gradients do not get through; it carries the verdict.
    """
    began = time.perf_counter()
    about = "Initialize a network, measure signals and gradients through depth, and fail if they explode or vanish."
    options = parse(CheckOptions, argv, verb="depth check", about=about, short=HOW_COMPUTED)
    check_fields(options)
    if options.target not in MODELS and user_path(options.target).exists():
        raise UsageError(
            f"depth check initializes a network anew: name one that `resnet-jax models` lists; to examine the "
            f"run {options.target} use depth profile, jacobian or lesion"
        )
    require_networks(options.target)
    import jax

    from resnet_jax.depth.checking import check
    from resnet_jax.models import ResNet
    from resnet_jax.report.check_report import check_table, save_check, write_check_report
    from resnet_jax.training.need import Options, require_memory

    model = ResNet(options.model.replace(options.target).config())
    if options.out is not None:
        make_directory(options.out)
    dims, size = model.config.spatial_dims, options.image_size or MODELS[options.target].image_size
    shape = (options.batch, *(size,) * dims, model.config.in_channels)
    console = console_for(options.common)
    require_memory(
        model,
        shape[1:],
        batch=options.batch,
        devices=jax.devices()[:1],
        warn=functools.partial(say, console),
        options=Options("batch", None),
    )
    with working(console, f"{options.target}: {options.draws} draws of its weights"):
        found = check(
            model,
            shape,
            key=jax.random.key(options.seed),
            draws=options.draws,
            train=options.norm_mode == "batch",
            limit=options.limit,
        )
    result: dict[str, Any] = {
        "ok": found.ok,
        "sentences": list(found.sentences),
        "blocks": len(found.names),
        "signal": _numbers(found.signal),
        "gradient": _numbers(found.gradient),
        "no_prediction": found.no_prediction,
    }
    say(console, check_table(found))
    if found.ok:  # the verdict first, whatever becomes of the files
        say(console, str(found))
    result["seconds"] = time.perf_counter() - began
    failed = None if found.ok else CheckError(str(found), result)
    if options.out is not None:
        result["out"] = str(options.out)
        try:
            save(functools.partial(save_check, found), options.out / "check.npz")
        except RunError as error:
            if failed is None:
                raise
            say(console, f"warning: {error}")
        title = f"Propagation check of {options.target}"
        facts = {"network": options.target, "images": f"{options.batch} of N(0, 1) pixels, {size} wide"}
        out = options.out
        draw(console, lambda: write_check_report(found, out, title=title, facts=facts))
    if failed is not None:
        raise failed
    return result


def _numbers(one: Any) -> dict[str, Any]:
    """Return the numbers that the verdict on one direction is based on."""
    stretch = None if one.stretch is None else dataclasses.asdict(one.stretch)
    return {"rate": one.rate, "total": one.total, "stretch": stretch}
