"""HIGGS-X: one command turns a model into one small, honest file that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from higgsx.integrations.hf import boot as _boot

if TYPE_CHECKING:
    from higgsx import errors
    from higgsx.api import compress, evaluate, inspect, load, plan, unpack, verify
    from higgsx.integrations.hf.config import HiggsxConfig
    from higgsx.tasks import Task

__version__ = "0.1.0"

_WHERE = {
    "compress": "higgsx.api",
    "errors": "higgsx.errors",
    "evaluate": "higgsx.api",
    "HiggsxConfig": "higgsx.integrations.hf.config",
    "inspect": "higgsx.api",
    "load": "higgsx.api",
    "plan": "higgsx.api",
    "Task": "higgsx.tasks",
    "unpack": "higgsx.api",
    "verify": "higgsx.api",
}

__all__ = [
    "__version__",
    "compress",
    "errors",
    "evaluate",
    "HiggsxConfig",
    "inspect",
    "load",
    "plan",
    "Task",
    "unpack",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Names are looked up at their first use, so that importing the package starts nothing."""
    if name not in _WHERE:
        raise AttributeError(f"module 'higgsx' has no attribute {name!r}")
    from importlib import import_module

    module = import_module(_WHERE[name])
    value = module if name == "errors" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


_boot.install()
