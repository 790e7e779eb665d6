"""Attempts at a training run, as docs/PROTOCOL.md counts them: a run that ends in an error is tried again by its own seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dermstudy.files import InputError

ATTEMPTS = 3
FROM_OUTSIDE = (InputError, OSError, MemoryError)  # bad input, no disk, no memory: these are no attempts
NO_MEMORY = {"OutOfMemoryError", "ResourceExhaustedError"}  # as torch and TensorFlow call it
Ran = TypeVar("Ran")


def attempted(run: Callable[[], Ran], name: str, say: Callable[[str], None] = print) -> Ran | None:
    """What `run` gives at the first of ATTEMPTS that ends without an error; None where none does: the run has failed.

    Says each attempt that did not end, with its error. What came from outside is raised, and so is an interrupt.
    """
    for number in range(1, ATTEMPTS + 1):
        try:
            return run()
        except Exception as error:  # whatever a library raises where a network cannot be trained
            if _from_outside(error):
                raise
            message = " ".join(str(error).split())
            say(f"{name}: attempt {number} of {ATTEMPTS} not finished, {type(error).__name__}: {message}")
    return None


def _from_outside(error: Exception) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, FROM_OUTSIDE) or bool(names & NO_MEMORY) or "can't allocate memory" in str(error)
