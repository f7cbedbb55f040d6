"""The page of the shipped recipes: the table of ``resnet-jax recipes``."""

from pathlib import Path

from links import write_if_changed


def write(docs: Path) -> None:
    """Write the page."""
    from resnet_jax.runs.recipe_table import readme_table

    text = f"""---
generated: true
---

# Recipes

A recipe is a named, sourced configuration. `resnet-jax train NAME` runs one, `resnet-jax recipes NAME` prints it in
full, `--smoke` runs it for seconds, and `--check` fails outside of what it expects. *Published* is the figure of its
source, *expected here* what this package reached, with its tolerance; where nothing stands there, it was not run.
"JPEG CIFAR-10" are the CIFAR-10 images recompressed as JPEG: figures on them cannot be compared with published ones.

{readme_table()}

What was run, with command, machine and curves, is in [Results](../results/index.md).
"""
    write_if_changed(docs / "reference" / "recipes.md", text)
