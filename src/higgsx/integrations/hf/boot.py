"""How transformers finds us, without importing it.

`install` registers our quantizer as soon as transformers' table of quantizers exists. It is called by
`import higgsx`, and at the end of `import torch` through the entry point group `torch.backends`, so that a
compressed folder loads with no import of ours. Nothing heavy is imported here, and nothing may raise: an
exception would break `import torch`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_TARGET = "transformers.quantizers.auto"
_log = logging.getLogger("higgsx")


def install() -> None:
    """Register now if transformers is there, else when it comes. Safe to call any number of times."""
    try:
        if _is_ready():
            _register_quietly()
        elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())
    except Exception as error:  # whoever imports torch must not suffer
        _log.debug("higgsx is not registered with transformers: %s", error)


def register() -> None:
    """Put configuration and quantizer into transformers' tables, once. Imports transformers."""
    from transformers.quantizers import auto

    from higgsx.integrations.hf.config import METHOD, HiggsxConfig
    from higgsx.integrations.hf.quantizer import HiggsxQuantizer

    if METHOD not in auto.AUTO_QUANTIZATION_CONFIG_MAPPING:
        auto.register_quantization_config(METHOD)(HiggsxConfig)
    if METHOD not in auto.AUTO_QUANTIZER_MAPPING:
        auto.register_quantizer(METHOD)(HiggsxQuantizer)


def _is_ready() -> bool:
    module = sys.modules.get(_TARGET)
    return module is not None and not getattr(module.__spec__, "_initializing", False)


def _register_quietly() -> None:
    try:
        register()
    except Exception as error:
        _log.warning("higgsx could not be registered with transformers: %s: %s", type(error).__name__, error)


class _Finder:
    """Waits for the table of quantizers to be imported. It finds nothing itself.

    torch may be imported from within that very import; then the table is half made, and the next import of
    anything at all registers. Afterwards it stays where it is, idle: its list may be in use.
    """

    busy = False
    """Within a search of its own, or done."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if self.busy:
            return None
        if _TARGET in sys.modules:
            if _is_ready():
                self._finish()
            return None
        return self._watched(name, path, target) if name == _TARGET else None

    def _watched(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        self.busy = True
        try:
            spec = next(
                filter(None, (_ask(finder, name, path, target) for finder in list(sys.meta_path))), None
            )
        finally:
            self.busy = False
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._finish()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def _finish(self) -> None:
        self.busy = True
        _register_quietly()


def _ask(finder: Any, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
    find = getattr(finder, "find_spec", None)
    return None if find is None else find(name, path, target)
