"""By which of its names a tied parameter is used at the moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from higgsx.nn.ties import Shared


class Owners:
    """Context that knows which owners of tied parameters are running."""

    def __init__(self, shared: Sequence[Shared]) -> None:
        self._shared = shared
        self._running: list[nn.Module] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> Owners:
        owners = {place.module for one in self._shared if len(one.places) > 1 for place in one.places}
        for module in owners:
            self._hooks.append(module.register_forward_pre_hook(self._begin))
            self._hooks.append(module.register_forward_hook(self._end, always_call=True))
        return self

    def __exit__(self, *unused: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, module: nn.Module, args: object) -> None:
        self._running.append(module)

    def _end(self, module: nn.Module, args: object, output: object) -> None:
        self._running.pop()

    def name_of(self, parameter: int) -> str:
        """The name whose owner began last; the model's first where none is running."""
        places = self._shared[parameter].places
        for module in reversed(self._running):
            for place in places:
                if place.module is module:
                    return place.name
        return places[0].name
