"""Modules that are imported when something in them is first used.

Opening a file and running it on the native kernels needs no torch, whose import takes longer than that.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class _Lazy(ModuleType):
    def __getattr__(self, name: str) -> object:
        value = getattr(importlib.import_module(self.__name__), name)
        if not name.startswith("__"):
            setattr(self, name, value)
        return value


def lazy(name: str) -> ModuleType:
    """Stands for the module; ImportError at the first use where it is not installed."""
    return _Lazy(name)
