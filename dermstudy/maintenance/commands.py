"""How every maintainer's command ends: a clear line and 2 for what can be mended, 0 once it is through."""

from __future__ import annotations

import sys
from collections.abc import Callable

from dermstudy.files import InputError


def answered(act: Callable[[], object]) -> int:
    """Do `act`; 0, or, for an InputError, its line on standard error and 2."""
    try:
        act()
    except InputError as error:
        print(f"dermstudy: {error}", file=sys.stderr)
        return 2
    return 0
