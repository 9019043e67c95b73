"""The code that an exported MLflow model carries with it: it needs JAX, flatbuffers and NumPy.

It is copied to where this project is not installed, so it imports nothing of it, nor MLflow.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jax import export


class Predictor:
    """A program read from a file, as MLflow calls it."""

    def __init__(self, path: Path):
        self._program = export.deserialize(bytearray(path.read_bytes()))

    def predict(self, images: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Logits, float32 (n, num_classes), of uint8 images (n, height, width, channels)."""
        return np.asarray(self._program.call(np.asarray(images)))


def _load_pyfunc(path: str) -> Predictor:
    """What MLflow looks for in the module that a model names as its loader."""
    return Predictor(Path(path))
