"""What a search writes while it runs and at its end: tables, the best trial as a recipe, figures."""

from __future__ import annotations

import time
from collections.abc import Callable

from resnet_jax.report.views import attempt
from resnet_jax.runs.config import RunConfig
from resnet_jax.runtime.files import write_whole
from resnet_jax.search.best import write_recipe
from resnet_jax.search.directory import Definition, SearchDirectory
from resnet_jax.search.figures import draw_history, draw_importance, draw_parallel
from resnet_jax.search.result import comma_separated, markdown, scored
from resnet_jax.search.study import Study, Trial

#: Seconds between two versions of the tables while trials end.
WRITE_SECONDS = 10.0


class Views:
    """Writes tables, recipe and figures of a study.

    Args:
        definition: what is searched.
        directory: the output directory.
        study: the trials.
        headline: the metric.
        say: prints a line.
    """

    def __init__(
        self,
        definition: Definition,
        directory: SearchDirectory,
        study: Study,
        headline: str,
        say: Callable[[str], None],
    ) -> None:
        self._definition, self._directory, self._study = definition, directory, study
        self._headline, self._say, self._wrote = headline, say, time.monotonic()
        self._title = f"Search of {definition.base.recipe}"

    def write_now_and_then(self, config: Callable[[Trial], RunConfig]) -> None:
        """Write the tables and the best trial so far, unless that was done recently.

        Args:
            config: returns the configuration of a trial.
        """
        if time.monotonic() - self._wrote < WRITE_SECONDS:
            return
        self.write()
        if (best := self._study.best()) is not None:
            self.write_best(config(best))
        self._wrote = time.monotonic()

    def write(self) -> None:
        """Write the tables."""
        trials, options = self._study.trials(), self._definition.space.options
        write_whole(self._directory.table_csv, comma_separated(trials, options, self._headline))
        text = markdown(trials, options, self._headline, self._study.mode, self._title)
        write_whole(self._directory.table_markdown, text)

    def write_best(self, config: RunConfig) -> None:
        """Write the best trial as a recipe."""
        best = self._study.best()
        if best is None:
            return
        metric = self._headline.replace("_", " ")
        write_recipe(
            self._directory.best,
            config,
            [
                f"Trial {best.number} of a search of recipe {self._definition.base.recipe} (resnet-jax search): the "
                f"best of {self._study.count} trials",
                f"by validation {metric}, {scored(best.mean, self._headline)} after {best.updates:,} updates"
                + (f", mean of {1 + len(best.repeats)} seeds" if best.repeats else "")
                + ". It was chosen on the validation images; on",
                "others expect less. resnet-jax train best.yaml trains and tests it.",
            ],
        )

    def draw(self) -> None:
        """Draw the figures; failures are reported."""
        directory, headline = self._directory, self._headline
        trials, best = self._study.trials(), self._study.best()

        def importance() -> None:
            found, share = self._study.importances()
            draw_importance(found, share, headline, directory.importance, f"{self._title}: what decides")

        def parallel() -> None:
            dimensions = self._definition.space.dimensions
            draw_parallel(trials, dimensions, headline, best, directory.parallel, self._title)

        def history() -> None:
            draw_history(trials, headline, self._study.mode, directory.history, self._title)

        for path, draw in (
            (directory.parallel, parallel),
            (directory.importance, importance),
            (directory.history, history),
        ):
            attempt(path.name, draw, self._say)
