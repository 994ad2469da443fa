"""An audio encoder: 30 seconds of features in, hidden states out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


class Torch:
    """transformers: float32, torch's dynamic INT8, or our packed weights."""

    def __init__(self, path: str, threads: int, options: dict[str, Any]) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        torch.set_num_threads(threads)
        if options.get("ours"):
            import os

            import higgsx

            os.environ["HIGGSX_PRECISION"] = options["precision"]  # read at the first product
            model = higgsx.load(path, packed=True)[0]
            if options.get("attention"):
                model.set_attn_implementation(options["attention"])
        else:
            kind = transformers.AutoModelForSpeechSeq2Seq
            model = kind.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
        if options.get("dynamic"):
            from torch.ao.quantization import quantize_dynamic

            model = quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        self.torch, self.model = torch, model.eval()
        self.dtype = next(self.model.parameters()).dtype

    def encode(self, features: np.ndarray) -> np.ndarray:
        with self.torch.inference_mode():
            given = self.torch.from_numpy(features).to(self.dtype)
            return self.model.get_encoder()(given).last_hidden_state.float().numpy()


class OpenVINO:
    def __init__(self, path: str, threads: int, options: dict[str, Any]) -> None:
        import openvino as ov

        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        model = Path(path) / "openvino_encoder_model.xml"
        self.compiled = ov.Core().compile_model(model, "CPU", settings)

    def encode(self, features: np.ndarray) -> np.ndarray:
        return np.array(self.compiled([features])[0])


def Engine(path: str, threads: int, options: dict[str, Any]) -> Torch | OpenVINO:
    return (OpenVINO if options.get("openvino") else Torch)(path, threads, options)
