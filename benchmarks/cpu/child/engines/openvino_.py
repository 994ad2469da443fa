"""OpenVINO on models that optimum-intel exported with state inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops


def _only_last(model: ov.Model) -> None:
    """Computes the head for the last position only, as OpenVINO's own generation does."""
    result = model.output("logits").node
    head = result.input_value(0).node
    while head.get_type_name() != "MatMul":
        head = head.input_value(0).node
    hidden = head.input_value(0)
    last = ops.gather(hidden, ops.constant(np.array([-1], np.int64)), ops.constant(np.int64(1)))
    head.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


class Engine:
    def __init__(self, path: str, threads: int, options: dict[str, Any]) -> None:
        core = ov.Core()
        model = core.read_model(Path(path) / "openvino_model.xml")
        if not options.get("everywhere"):
            _only_last(model)
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        self.compiled = core.compile_model(model, "CPU", settings)
        self.request = self.compiled.create_infer_request()
        self.names = {name for port in self.compiled.inputs for name in port.names}

    def open(self, batch: int, length: int) -> None:
        self.past = 0

    def _run(self, ids: np.ndarray) -> np.ndarray:
        batch, length = ids.shape
        given = {
            "input_ids": ids,
            "attention_mask": np.ones((batch, self.past + length), np.int64),
            "position_ids": np.tile(np.arange(self.past, self.past + length), (batch, 1)),
            "beam_idx": np.arange(batch, dtype=np.int32),
        }
        self.request.infer({name: value for name, value in given.items() if name in self.names})
        self.past += length
        return self.request.get_tensor("logits").data

    def start(self, prompts: list[list[int]]) -> list[int]:
        self.request.reset_state()
        self.past = 0
        return self._run(np.array(prompts, np.int64))[:, -1].argmax(-1).tolist()

    def step(self, tokens: list[int]) -> list[int]:
        return self._run(np.array(tokens, np.int64)[:, None])[:, -1].argmax(-1).tolist()

    def logits(self, ids: list[int]) -> np.ndarray:
        self.request.reset_state()
        self.past = 0
        return self._run(np.array([ids], np.int64))[0]
