"""Which torch functions write into their first argument, by their names."""

from __future__ import annotations


def changes(name: str) -> bool:
    """Whether a function of this name writes into its first argument."""
    if name in _AUGMENTED or name == "set data":
        return True
    return name.endswith("_") and not name.endswith("__") and name != "requires_grad_"


_AUGMENTED = frozenset(
    f"__i{name}__"
    for name in (
        "add",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "div",
        "mod",
        "pow",
        "and",
        "or",
        "xor",
        "lshift",
        "rshift",
    )
) | {"__setitem__"}
