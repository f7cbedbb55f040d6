"""The network of a run served by LitServe, in an environment that has it and this package.

PYTHON experiments/benchmarks/peers/litserve_peer.py RUN PORT BATCH
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np

from resnet_jax.runs.predict import Predictor
from resnet_jax.runs.trained import load_run


class Api(litserve.LitAPI):
    """Decodes, computes batches and names classes as `resnet-jax serve` does; LitServe does the rest."""

    def __init__(self, run: Path, batch: int):
        super().__init__(max_batch_size=batch, batch_timeout=0.005)
        self.run, self.most = run, batch

    def setup(self, device: Any) -> None:
        """Load the network and compile a few sizes of batches."""
        self.predictor = Predictor(load_run(self.run), (1, 4, self.most))
        for size in (1, 4, self.most):
            self.predictor.outputs(np.zeros((size, *self.predictor.trained.card.image_shape), np.uint8))

    def decode_request(self, request):  # LitServe takes JSON where there is no annotation
        """Read an image, which JSON carries in base64."""
        return self.predictor.read(base64.b64decode(request["image"]), "0")

    def batch(self, inputs: Any) -> Any:
        """Join images."""
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        """Compute."""
        return self.predictor.outputs(x)

    def unbatch(self, output: Any) -> Any:
        """Part outputs."""
        return list(output)

    def encode_response(self, output: Any) -> Any:
        """Name five classes."""
        return {"classes": [self.predictor.class_names[k] for k in np.argsort(-output)[:5]]}


if __name__ == "__main__":
    served = litserve.LitServer(
        Api(Path(sys.argv[1]), int(sys.argv[3])), accelerator="cpu", workers_per_device=1, timeout=60
    )
    served.run(port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
