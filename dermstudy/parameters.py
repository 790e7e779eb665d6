"""A notebook's parameters: the types that its parameters cell declares, and values as those types."""

from __future__ import annotations

import ast
import difflib
import functools
from collections.abc import Mapping
from typing import Any

from dermstudy.files import InputError


def declared(cell: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The defaults, and the types, of the annotated assignments in the source of a parameters cell, by name."""
    defaults, kinds = {}, {}
    for statement in ast.parse(cell).body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            defaults[statement.target.id] = ast.literal_eval(statement.value)
            kinds[statement.target.id] = eval(ast.unparse(statement.annotation))
    return defaults, kinds


def typed(given: Mapping[str, Any], kinds: Mapping[str, Any], who: str = "") -> dict[str, Any]:
    """`given`, each value as the type that `kinds` declares for its name: 2024 as "2024" where a text is declared.

    who: the beginning of a message. InputError for a name that is not declared, with the nearest one that is, and for a
    value of another type.
    """
    from pydantic import ValidationError

    values = {}
    for name, value in given.items():
        if name not in kinds:
            near = difflib.get_close_matches(name.upper(), kinds, 1)
            known = f"{near[0]} is one" if near else f"its parameters are {', '.join(kinds)}"
            raise InputError(f"{who}{name} is no parameter of this notebook: {known}")
        try:
            if isinstance(value, bool) and kinds[name] is not bool:  # else True would be read as 1
                raise TypeError
            values[name] = _reader(kinds[name]).validate_python(value)
        except (ValidationError, TypeError) as error:
            kind = kinds[name].__name__ if isinstance(kinds[name], type) else kinds[name]
            raise InputError(f"{who}{name} is {value!r}: give a value of type {kind}") from error
    return values


@functools.cache
def _reader(kind: Any):
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(kind, config=ConfigDict(coerce_numbers_to_str=True))
