"""Medians and ratios from raw rounds; the targets they are held against."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

Result = Mapping[str, Any]
Figure = Callable[[Result], float | None]
OURS4, OURS8, SMALLER = "higgsx 4.5 bits", "higgsx 8 bits", "higgsx 4.25 bits"
BF16 = "transformers bf16"

TARGETS: dict[str, tuple[str, float, bool]] = {
    "bandwidth_fraction_4bit": ("decode at 4.5 bits, share of the read bandwidth", 0.85, True),
    "bandwidth_fraction_8bit": ("decode at 8 bits, share of the read bandwidth", 0.90, True),
    "decode_b1_4bit": ("decode at 4.5 bits over the best 4-bit peer", 1.8, True),
    "decode_b1_8bit": ("decode at 8 bits over the best 8-bit peer", 0, True),
    "gain_3bit": ("3 bits: (speed-up over our 4.25 bits − 1) / (byte ratio − 1)", 0.70, True),
    "gain_2bit": ("2 bits: (speed-up over our 4.25 bits − 1) / (byte ratio − 1)", 0.70, True),
    "prefill_128": ("prefill of 128 tokens at 4.5 bits over the best 4-bit peer", 1.3, True),
    "prefill_512": ("prefill of 512 tokens at 4.5 bits over the best 4-bit peer", 1.3, True),
    "prefill_128_smaller": ("the same 128 tokens at 4.25 bits", 0, True),
    "prefill_512_smaller": ("the same 512 tokens at 4.25 bits", 0, True),
    "prefill_128_of_peak": ("prefill of 128 tokens, share of the int8 multiply peak", 0.70, True),
    "prefill_512_of_peak": ("prefill of 512 tokens, share of the int8 multiply peak", 0.70, True),
    "decode_b8_over_b1": ("decode of 8 texts at once over one, 4.5 bits", 2.5, True),
    "load_cold_vs_bf16": ("cold load with first token: transformers bf16 over ours at 4.5 bits", 3.5, True),
    "load_warm_s": ("warm load with first token of 32 + 1, seconds, 4.5 bits", 0.3, False),
    "whisper_encoder_vs_fp32": ("Whisper encoder, 8 bits, PyTorch's attention, over fp32", 1.8, True),
    "whisper_encoder_vs_fp32_own": ("Whisper encoder, 8 bits, our attention, over fp32", 2.5, True),
    "whisper_encoder_fast_vs_fp32": ("the same in one pass (`fast`), PyTorch's attention", 1.8, True),
    "whisper_encoder_fast_vs_fp32_own": ("the same in one pass (`fast`), our attention", 2.5, True),
    "small_decode_vs_llama": (
        "small models, decode over llama.cpp at its best, the least of them",
        1.0,
        True,
    ),
    "whisper_large_peak_gb": ("Whisper large-v3 shape, 8 bits: peak memory, GB", 3.0, False),
}
"""Name: words, wanted, whether more is better. 0: no target."""


def decode(batch: int) -> Figure:
    return lambda found: found.get("decode", {}).get(str(batch))


def prefill(length: int) -> Figure:
    return lambda found: found.get("prefill", {}).get(str(length))


def warm(found: Result) -> float | None:
    return found.get("first_token_s")


def cold(found: Result) -> float | None:
    return (found.get("cold") or {}).get("first_token_s")


def cold_start(found: Result) -> float | None:
    return (found.get("cold") or {}).get("from_start_s")


def memory(found: Result) -> float | None:
    return found.get("peak_bytes")


def median(rounds: Sequence[Result], figure: Figure) -> float | None:
    values = [value for one in rounds if (value := figure(one)) is not None]
    return statistics.median(values) if values else None


def ratio(one: Sequence[Result], other: Sequence[Result], figure: Figure) -> float | None:
    """Median of the ratios within each round."""
    theirs = {found["round"]: figure(found) for found in other}
    ratios = [
        value / rival
        for found in one
        if (value := figure(found)) is not None and (rival := theirs.get(found["round"]))
    ]
    return statistics.median(ratios) if ratios else None


def best(part: Mapping[str, Any], level: int, figure: Figure) -> str | None:
    """The peer of this level with the highest median."""
    speeds = {
        key: speed
        for key, meta in part["contestants"].items()
        if meta["maker"] in ("llama.cpp", "OpenVINO")
        and meta["level"] == level
        and (speed := median(part["rounds"].get(key, ()), figure)) is not None
    }
    return max(speeds, key=lambda key: speeds[key]) if speeds else None


def fraction(part: Mapping[str, Any], key: str) -> float | None:
    """Of the read bandwidth of the same round, what decoding one text uses."""
    reads = [found.get("read") for found in part["machine_rounds"]]
    meta = part["contestants"].get(key)
    shares = [
        speed * meta["token_bytes"] / reads[found["round"]]
        for found in part["rounds"].get(key, ())
        if (speed := decode(1)(found)) is not None and reads[found["round"]]
    ]
    return statistics.median(shares) if shares else None


def of_peak(part: Mapping[str, Any], key: str, length: int) -> float | None:
    peaks = [found.get("multiply") for found in part["machine_rounds"]]
    work = part["shape"]["inner"] + part["shape"]["head"] / length
    shares = [
        speed * work / peak
        for found in part["rounds"].get(key, ())
        if (speed := prefill(length)(found)) is not None and (peak := peaks[found["round"]])
    ]
    return statistics.median(shares) if shares else None


def gain(part: Mapping[str, Any], key: str, base: str = SMALLER) -> float | None:
    rounds, metas = part["rounds"], part["contestants"]
    speed_up = ratio(rounds.get(key, ()), rounds.get(base, ()), decode(1))
    if speed_up is None:
        return None
    return (speed_up - 1) / (metas[base]["token_bytes"] / metas[key]["token_bytes"] - 1)


def ratios_of(part: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of the decoder part; None where a row is missing."""
    rounds = part["rounds"]
    found: dict[str, Any] = {}

    def over(name: str, ours: str, level: int, figure: Figure) -> None:
        rival = best(part, level, figure)
        found[name] = ratio(rounds.get(ours, ()), rounds[rival], figure) if rival else None
        found[f"{name}_rival"] = rival
        losses = [part.get("kl", {}).get(key, {}).get("kl") for key in (ours, rival)]
        found[f"{name}_kl"] = None if None in losses else losses

    over("decode_b1_4bit", OURS4, 4, decode(1))
    over("decode_b1_8bit", OURS8, 8, decode(1))
    over("decode_b8_4bit", OURS4, 4, decode(8))
    over("prefill_128", OURS4, 4, prefill(128))
    over("prefill_512", OURS4, 4, prefill(512))
    over("prefill_128_smaller", SMALLER, 4, prefill(128))
    over("prefill_512_smaller", SMALLER, 4, prefill(512))
    rival = found["decode_b1_4bit_rival"]
    found["rival_fraction_4bit"] = fraction(part, rival) if rival else None
    found["bandwidth_fraction_4bit"] = fraction(part, OURS4)
    found["bandwidth_fraction_8bit"] = fraction(part, OURS8)
    found["gain_3bit"], found["gain_2bit"] = gain(part, "higgsx 3 bits"), gain(part, "higgsx 2 bits")
    for length in (128, 512):
        found[f"prefill_{length}_of_peak"] = of_peak(part, OURS4, length)
    mine = rounds.get(OURS4, ())
    single = median(mine, decode(1))
    together = median(mine, decode(8))
    found["decode_b8_over_b1"] = together / single if single and together else None
    found["load_cold_vs_bf16"] = ratio(rounds.get(BF16, ()), mine, cold)
    found["start_cold_vs_bf16"] = ratio(rounds.get(BF16, ()), mine, cold_start)
    found["load_warm_s"] = median(mine, warm)
    return found


def small_ratios(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Decode of one text: our fastest row over llama.cpp's fastest, for each model and the least of all."""
    found: dict[str, float] = {}
    for name, part in parts.items():
        speeds: dict[str, float] = {}
        for key, meta in part["contestants"].items():
            speed = median(part["rounds"].get(key, ()), decode(1))
            speeds[meta["maker"]] = max(speeds.get(meta["maker"], 0.0), speed or 0.0)
        if speeds.get("llama.cpp") and speeds.get("higgsx"):
            found[name] = speeds["higgsx"] / speeds["llama.cpp"]
    return {"small": found, "small_decode_vs_llama": min(found.values(), default=None)}


def whisper_ratios(parts: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, part in parts.items():
        suffix = "" if name == "whisper-base" else "_large"
        rounds = part["rounds"]

        def forward(one: Result) -> float | None:
            return one.get("forward_s")

        for (passes, speed), (whose, tail) in product(
            (("two passes", ""), ("one pass", "_fast")), (("PyTorch's", ""), ("our", "_own"))
        ):
            key = f"higgsx 8 bits, {passes}, {whose} attention"
            label = f"whisper_encoder{suffix}{speed}_vs_fp32{tail}"
            found[label] = ratio(rounds.get("transformers fp32", ()), rounds.get(key, ()), forward)
            if suffix and not speed:
                peak = median(rounds.get(key, ()), memory)
                found[f"whisper_large_peak_gb{tail}"] = None if peak is None else peak / 1e9
    return found
