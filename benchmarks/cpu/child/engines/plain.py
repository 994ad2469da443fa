"""transformers with plain PyTorch, with torch's dynamic INT8, or with our packed weights."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

transformers.logging.set_verbosity_error()


class Engine:
    def __init__(self, path: str, threads: int, options: dict[str, Any]) -> None:
        torch.set_num_threads(threads)
        if options.get("ours"):
            import higgsx

            self.model, self.tokenizer = higgsx.load(path, packed=True)
        else:
            self.tokenizer = AutoTokenizer.from_pretrained(path)
            dtype = getattr(torch, options.get("dtype", "float32"))
            self.model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        if options.get("dynamic"):
            from torch.ao.quantization import quantize_dynamic

            self.model = quantize_dynamic(self.model, {torch.nn.Linear}, dtype=torch.qint8)
        self.model.eval()
        # a name that changes between versions of transformers
        known = inspect.signature(self.model.forward).parameters
        self.kept = "cache" if "cache" in known else "past_key_values"

    def open(self, batch: int, length: int) -> None:
        self.cache = DynamicCache(config=self.model.config)

    @torch.inference_mode()
    def _run(self, ids: list[list[int]]) -> list[int]:
        given = {"input_ids": torch.tensor(ids), self.kept: self.cache, "use_cache": True}
        return self.model(**given, logits_to_keep=1).logits[:, -1].argmax(-1).tolist()

    def start(self, prompts: list[list[int]]) -> list[int]:
        self.cache = DynamicCache(config=self.model.config)
        return self._run(prompts)

    def step(self, tokens: list[int]) -> list[int]:
        return self._run([[token] for token in tokens])

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> np.ndarray:
        return self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().numpy()
