"""What the fields of a section mean: the text below each, read from the source when somebody asks.

pydantic would do the same for every section when it is imported, which costs each process a tenth of its start.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise


@cache
def descriptions(section: type) -> dict[str, str]:
    """By field, for those of the class and of the classes that it extends; empty where there is no source."""
    found: dict[str, str] = {}
    for base in reversed(section.__mro__[:-1]):
        if "__annotations__" in base.__dict__:
            found.update(_own(base))
    return found


def _own(section: type) -> dict[str, str]:
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    except (OSError, TypeError):  # a frozen application, or a class made by code
        return {}
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
