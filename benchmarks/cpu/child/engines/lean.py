"""Our lean decoder, tokenizer included."""

from __future__ import annotations

from typing import Any

import numpy as np

import higgsx.api
import higgsx.runtime.lean


class Engine:
    def __init__(self, path: str, threads: int, options: dict[str, Any]) -> None:
        self.path, self.settings = path, {"threads": threads, "precision": options.get("precision")}
        self.lean: Any = None

    def open(self, batch: int, length: int) -> None:
        if self.lean is not None:
            self.lean.close()
            self.lean = None
        room = {"context": length, "sequences": batch}
        self.lean = higgsx.api.load(self.path, runtime=True, **room, **self.settings)[0]

    def start(self, prompts: list[list[int]]) -> list[int]:
        self.lean.reset()
        return [int(self.lean.extend(at, ids).argmax()) for at, ids in enumerate(prompts)]

    def step(self, tokens: list[int]) -> list[int]:
        return self.lean.step(tokens).argmax(-1).tolist()

    def logits(self, ids: list[int]) -> np.ndarray:
        return self.lean.logits(ids)
