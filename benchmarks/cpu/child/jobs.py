"""What a child process does besides speed: probes of the machine, KL, audio encoders, making inputs."""

from __future__ import annotations

import importlib
import json
import statistics
import time
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

PROBED = 1 << 30
ROUNDS = 5
WINDOW, WINDOWS = 512, 2


def probe(order: dict[str, Any]) -> dict[str, Any]:
    """Bytes a second that all threads read together, and 8-bit multiply-adds a second in registers."""
    data = np.ones(PROBED, np.uint8)
    try:
        from higgsx.kernels import native

        library = native.load()
    except Exception as error:
        return {"read": _read_by_numpy(data, order["threads"]), "multiply": None, "why": str(error)}
    library.check(library.hgx_set_threads(order["threads"]))
    address = data.ctypes.data
    library.hgx_probe_read(address, PROBED)
    reads = [PROBED / timed(lambda: library.hgx_probe_read(address, PROBED))[0] for _ in range(ROUNDS)]
    multiply = library.hgx_probe_multiply
    rounds = 1 << 16
    while timed(partial(multiply, rounds))[0] < 0.1:
        rounds *= 2
    runs = [timed(partial(multiply, rounds)) for _ in range(ROUNDS)]
    return {
        "read": max(reads),
        "multiply": max(done / seconds for seconds, done in runs),
        "tier": library.tier,
        "reads": reads,
    }


def timed(work: Any) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def _read_by_numpy(data: np.ndarray, threads: int) -> float:
    words = data.view(np.uint64)
    best = 0.0
    for _ in range(ROUNDS):
        pool = [Thread(target=part.sum) for part in np.array_split(words, threads)]
        begin = time.perf_counter()
        for thread in pool:
            thread.start()
        for thread in pool:
            thread.join()
        best = max(best, data.nbytes / (time.perf_counter() - begin))
    return best


def reference(order: dict[str, Any]) -> dict[str, Any]:
    """The original in fp32: windows of text and its log-probabilities at every position."""
    from engines.plain import Engine

    from higgsx.fidelity.texts import text_windows
    from higgsx.integrations.hf.model import HFModel
    from higgsx.source.hub import open_source

    encoder = HFModel.of(open_source(order["path"])).encoder()
    windows = []
    for domain, path in order["texts"].items():
        for window in text_windows(path, encoder, WINDOW, WINDOWS):
            windows.append((domain, [int(number) for number in window.flatten()]))
    engine = Engine(order["path"], order["threads"], {})
    place = Path(order["place"])
    place.mkdir(parents=True, exist_ok=True)
    for at, (_, ids) in enumerate(windows):
        np.save(place / f"{at}.npy", log_softmax(engine.logits(ids)[:-1]))
    (place / "windows.json").write_text(json.dumps(windows))
    return {"windows": len(windows)}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In place, row by row."""
    values = np.array(logits, np.float32)
    values -= values.max(-1, keepdims=True)
    for row in values:
        row -= np.log(np.exp(row).sum(dtype=np.float64))
    return values


def kl(order: dict[str, Any]) -> dict[str, Any]:
    """KL(original ‖ contestant) as its runtime computes, activations and all."""
    module = importlib.import_module(f"engines.{order['engine']}")
    engine = module.Engine(order["path"], order["threads"], {**order.get("options", {}), "everywhere": True})
    engine.open(1, WINDOW)
    place = Path(order["place"])
    means: list[float] = []
    agreed = total = 0
    domains: dict[str, list[float]] = {}
    for at, (domain, ids) in enumerate(json.loads((place / "windows.json").read_text())):
        original = np.load(place / f"{at}.npy", mmap_mode="r")
        values = []
        for begin in range(0, len(original), 64):
            p = np.array(original[begin : begin + 64])
            if begin == 0:
                logits = engine.logits(ids)
            q = log_softmax(logits[begin : begin + len(p)])
            values += (np.exp(p) * (p - q)).sum(-1, dtype=np.float64).tolist()
            agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
            total += len(p)
        means.append(statistics.fmean(values))
        domains.setdefault(domain, []).append(means[-1])
    return {
        "kl": statistics.fmean(means),
        "standard_error": statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else None,
        "top1": agreed / total,
        "positions": total,
        "domains": {name: statistics.fmean(found) for name, found in domains.items()},
    }


def encoder(order: dict[str, Any]) -> dict[str, Any]:
    """Seconds of one pass over 30 seconds of audio; the first pass is not counted."""
    from engines.encoder import Engine
    from worker import peak

    features = np.load(order["features"])
    begin = time.perf_counter()
    engine = Engine(order["path"], order["threads"], order.get("options", {}))
    loaded = time.perf_counter() - begin
    hidden = engine.encode(features)
    times = [timed(lambda: engine.encode(features))[0] for _ in range(order["repeat"])]
    found: dict[str, Any] = {"load_s": loaded, "forward_s": statistics.median(times), "peak_bytes": peak()}
    expected = Path(order["expected"])
    if order.get("is_reference"):
        np.save(expected, hidden)
    elif expected.is_file():
        original = np.load(expected)
        found["relative_error"] = float(np.linalg.norm(hidden - original) / np.linalg.norm(original))
    return found


def features(order: dict[str, Any]) -> dict[str, Any]:
    """Log-mel features of one clip, and where wanted a random model of this configuration."""
    import wave

    from transformers import WhisperFeatureExtractor

    with wave.open(order["clip"]) as clip:
        samples = np.frombuffer(clip.readframes(clip.getnframes()), np.int16) / 32768
        rate = clip.getframerate()
    if rate != 16000:
        grid = np.arange(int(len(samples) * 16000 / rate)) * rate / 16000
        samples = np.interp(grid, np.arange(len(samples)), samples)
    extract = WhisperFeatureExtractor(feature_size=order["mels"])
    found = extract(samples.astype(np.float32), sampling_rate=16000, return_tensors="np").input_features
    np.save(order["out"], found.astype(np.float32))
    return {"shape": list(found.shape)}


def random_whisper(order: dict[str, Any]) -> dict[str, Any]:
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    config = WhisperConfig(**order["config"])
    model = WhisperForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(order["out"])
    return {"weights": sum(parameter.numel() for parameter in model.parameters())}


JOBS = {
    "probe": probe,
    "reference": reference,
    "kl": kl,
    "encoder": encoder,
    "features": features,
    "random_whisper": random_whisper,
}
