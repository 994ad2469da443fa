"""The tables of docs/results.md about speed; nothing is typed by hand."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from common import markdown

from cpu import summary

Part = Mapping[str, Any]
_HEAD = (
    "", "bits", "KL", "decode 1", "of bandwidth", "decode 8", "prefill 32", "128", "512", "warm s", "cold s",
    "cold, from start s", "peak GB",
)  # fmt: skip
_NOTE = """## Speed beside llama.cpp, OpenVINO and PyTorch

Printed by `benchmarks/cpu_peers.py`; nothing here is typed by hand. {machine}; {threads} threads.

- Medians of {rounds} interleaved rounds, every contestant in a process of its own in each, tokens a second.
  All are made from the same bf16 folder, none with data; llama.cpp without importance matrix. {versions}.
- KL(original ‖ contestant) is measured in the contestant's own runtime on six windows of 512 tokens, the
  rounding of activations included, ± one standard error over windows; "–": not measured.
- "decode 8": eight texts at once, all together. "of bandwidth": bytes of weights that a token reads × tokens
  a second, over what the threads read from memory in the same round.
- "warm": loading and the first token after a prompt of 32, in a process that has imported its libraries;
  "cold": the same with nothing in the page cache ({how}); "from start": imports and process start included.
- What crashed or could not be installed says so in its row and ended nothing else.
"""


def number(value: float | None, form: str = ".1f") -> str:
    return "–" if value is None else format(value, form)


def decoder(name: str, part: Part) -> str:
    lines = [_line(key, part) for key in part["order"]]
    machine = [found for found in part["machine_rounds"] if "read" in found]
    read = statistics.median(found["read"] for found in machine) if machine else None
    peaks = [found["multiply"] for found in machine if found.get("multiply")]
    disks = [found["disk"] for found in machine if found.get("disk")]
    words = [f"Memory read: {number(read and read / 1e9)} GB/s"]
    if peaks:
        words.append(f"8-bit multiply-adds: {statistics.median(peaks) / 1e12:.2f} T/s ({machine[0]['tier']})")
    if disks:
        words.append(f"disk: {statistics.median(disks) / 1e9:.2f} GB/s")
    return f"### {name}\n\n{'; '.join(words)}.\n\n{markdown(lines, _HEAD)}\n"


def _line(key: str, part: Part) -> tuple[str, ...]:
    if key in part["failed"]:
        return (key, "–", "–", f"not run: {part['failed'][key]}", *[""] * 9)
    meta, rounds = part["contestants"][key], part["rounds"].get(key, [])
    errors = [found["error"] for found in rounds if "error" in found]
    good = [found for found in rounds if "error" not in found]
    bits = "–" if meta["maker"] == "transformers" and "INT8" in key else f"{meta['bits']:.2f}"
    kl = part.get("kl", {}).get(key)
    said = "–" if not kl or "kl" not in kl else f"{kl['kl']:.2g}"
    if kl and kl.get("standard_error"):
        said += f" ± {kl['standard_error']:.1g}"
    if not good:
        return (key, bits, said, f"failed: {errors[-1] if errors else 'not run'}", *[""] * 9)
    share = summary.fraction(part, key)
    peak = summary.median(good, summary.memory)
    label = key if len(rounds) == len(part["machine_rounds"]) else f"{key} ({len(rounds)} rounds)"
    if errors:
        label = f"{key} ({len(errors)} of {len(rounds)} rounds failed: {errors[-1]})"
    return (
        label, bits, said,
        number(summary.median(good, summary.decode(1))),
        number(share and 100 * share, ".0f") + (" %" if share else ""),
        number(summary.median(good, summary.decode(8))),
        *(number(summary.median(good, summary.prefill(length)), ".0f") for length in (32, 128, 512)),
        number(summary.median(good, summary.warm), ".2f"),
        number(summary.median(good, summary.cold), ".2f"),
        number(summary.median(good, summary.cold_start), ".2f"),
        number(peak and peak / 1e9, ".2f"),
    )  # fmt: skip


def targets(ratios: Mapping[str, Any]) -> str:
    lines = []
    for name, (words, wanted, more) in summary.TARGETS.items():
        value = ratios.get(name)
        share = ratios.get("rival_fraction_4bit")
        if value is None:
            verdict = "not measured"
        elif name == "decode_b1_4bit" and share and share * wanted >= 1 > value / wanted:
            verdict = f"the peer is at {share:.0%} of the bandwidth: the limit is the target"
        elif not wanted:
            verdict = ""
        else:
            met = value >= wanted if more else value <= wanted
            verdict = "reached" if met else f"missed by {abs(value - wanted) / wanted:.0%}"
        aim = f"{'≥' if more else '≤'} {wanted:g}" if wanted else "–"
        lines.append((words + _beside(ratios, name), aim, number(value, ".2f"), verdict))
    return f"### Targets\n\n{markdown(lines, ('', 'wanted', 'measured', ''))}\n"


def _beside(ratios: Mapping[str, Any], name: str) -> str:
    """The peer that a ratio is of, and what both lose."""
    rival, losses = ratios.get(f"{name}_rival"), ratios.get(f"{name}_kl")
    if not rival:
        return ""
    lost = f"; it loses {losses[1]:.2g}, ours {losses[0]:.2g}" if losses else ""
    return f" ({rival}{lost})"


def _rounds(part: Part, key: str) -> tuple[list[Part], str]:
    """The rounds that went well; where there is none, why."""
    rounds = part["rounds"].get(key, [])
    good = [found for found in rounds if "error" not in found]
    if good and key not in part["failed"]:
        return good, ""
    return [], part["failed"].get(key) or (rounds[-1]["error"] if rounds else "not run")


def small(parts: Mapping[str, Part]) -> str:
    lines = []
    for name, part in parts.items():
        for key in part["order"]:
            good, why = _rounds(part, key)
            if why:
                lines.append((name, key, "", f"not run: {why}", "", "", ""))
                continue
            speed = summary.median(good, summary.decode(1))
            lines.append(
                (
                    name, key, f"{part['contestants'][key]['bits']:.2f}", number(speed, ".0f"),
                    number(speed and 1000 / speed, ".3f"),
                    number(summary.median(good, summary.decode(8)), ".0f"),
                    number(summary.median(good, summary.prefill(128)), ".0f"),
                )
            )  # fmt: skip
    head = ("model", "", "bits", "decode 1", "ms a token", "decode 8", "prefill 128")
    return f"### Small models\n\n{markdown(lines, head)}\n"


def whisper(parts: Mapping[str, Part]) -> str:
    lines: list[Sequence[str]] = []
    for name, part in parts.items():
        for key in part["order"]:
            good, why = _rounds(part, key)
            if why:
                lines.append((name, key, f"not run: {why}", "", "", "", ""))
                continue

            def forward(found: Part) -> float | None:
                return found.get("forward_s")

            peak = summary.median(good, summary.memory)
            lines.append(
                (
                    name, key, number(summary.median(good, forward), ".3f"),
                    number(summary.ratio(part["rounds"].get("transformers fp32", ()), good, forward), ".2f"),
                    number(summary.median(good, lambda found: found.get("relative_error")), ".2g"),
                    number(summary.median(good, lambda found: found.get("load_s")), ".2f"),
                    number(peak and peak / 1e9, ".2f"),
                )
            )  # fmt: skip
    head = ("model", "", "s for 30 s of audio", "times fp32", "relative error", "load s", "peak GB")
    return (
        f"### Whisper's encoder\n\nThe whole model is loaded (OpenVINO: the encoder alone), the encoder is \
run. The large-v3 shape has random weights: its error says nothing.\n\n{markdown(lines, head)}\n"
    )


def everything(data: Mapping[str, Any]) -> str:
    models: Mapping[str, Part] = data.get("models", {})
    counts = {len(part["machine_rounds"]) for part in models.values()}
    hows = {part["how"] for part in models.values()}
    parts = [
        _NOTE.format(
            machine=data["machine"],
            threads=data["threads"],
            rounds=" or ".join(map(str, sorted(counts))) or "no",
            versions=", ".join(f"{name} {version}" for name, version in data["versions"].items()),
            how=", ".join(sorted(hows)) or "not measured",
        )
    ]
    parts += [decoder(name, part) for name, part in models.items()]
    parts.append(targets(data["ratios"]))
    if data.get("whisper"):
        parts.append(whisper(data["whisper"]))
    if data.get("small"):
        parts.append(small(data["small"]))
    return "\n".join(parts)
