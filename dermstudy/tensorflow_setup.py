"""TensorFlow and Keras, imported without the notes on absent GPUs that they write past Python's own streams."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys


def import_tensorflow():
    """The tensorflow module."""
    if "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with contextlib.suppress(ImportError):
            importlib.import_module("triton")  # torch loads it late, and after TensorFlow that ends the process
        standard_error = os.dup(2)
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 2)
                tensorflow = importlib.import_module("tensorflow")
                # It warns of a new graph for each new network, and a new network is what every run here is.
                tensorflow.get_logger().setLevel("ERROR")
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
    return sys.modules["tensorflow"]


def import_keras():
    """The keras module, on TensorFlow."""
    import_tensorflow()
    return importlib.import_module("keras")


def limit_threads(threads: int) -> None:
    """Let TensorFlow use this many threads; to be called before it computes anything."""
    tensorflow = import_tensorflow()
    tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
    tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
