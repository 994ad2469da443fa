"""Speed on this processor beside llama.cpp, OpenVINO and plain PyTorch, in interleaved rounds.

    python benchmarks/cpu_peers.py                      everything, qwen2.5-coder-1.5b, 5 rounds
    python benchmarks/cpu_peers.py --prepare            only converts (and measures KL), times nothing
    python benchmarks/cpu_peers.py --quick              the 0.5 B, 2 short rounds
    python benchmarks/cpu_peers.py --parts decoder      of decoder, whisper, small, kl
    python benchmarks/cpu_peers.py --write              fills docs/results.md from the last run

Raw rounds and ratios go into benchmarks/out/cpu_peers.json. The peers' environment and the converted models
lie in ~/.cache/higgsx-peers (HIGGSX_PEERS) and are made at the first run: that takes half an hour and 25 GB.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peers
from common import REAL_MODELS, ROOT, SMALL_MODELS, folder_of, machine, present, texts_of
from cpu import contestants, environment, summary, tables, whisper
from cpu.contestants import Contestant
from cpu.environment import Missing
from cpu.rounds import Result, Rounds, call
from results import write_speed

OUT = ROOT / "benchmarks" / "out" / "cpu_peers.json"
TRIAL = OUT.with_name("cpu_peers_trial.json")
"""Of runs with --quick or --only, which are no full table."""
PARTS = ("decoder", "kl", "whisper", "small")
MAIN = "qwen2.5-coder-1.5b"
FULL = {"context": 1024, "prefill": (32, 128, 512), "decode": ((1, 32), (8, 16)), "cold": True}
QUICK = {"context": 512, "prefill": (32, 128), "decode": ((1, 16), (8, 8)), "cold": True}
SMALL = {"context": 256, "prefill": (32, 128), "decode": ((1, 150), (8, 60)), "cold": False}


def meta_of(one: Contestant) -> dict[str, Any]:
    return {
        "maker": one.maker, "level": one.level, "bits": one.bits, "token_bytes": one.token_bytes,
        "file": one.path.name, "options": one.options, "threads": one.threads,
    }  # fmt: skip


def part_of(name: str, chosen: Any, runs: Rounds) -> dict[str, Any]:
    found, failed, order = chosen
    return {
        "shape": contestants.shape_of(folder_of(name)),
        "order": order,
        "contestants": {one.key: meta_of(one) for one in found},
        "failed": failed,
        "rounds": runs.results,
        "machine_rounds": runs.machine,
        "how": runs.how,
    }


def decoder(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    folder = folder_of(name)
    wanted = list(contestants.specs(folder, one_code=arguments.one_code, more=arguments.more))
    chosen = contestants.collect(wanted, arguments.only)
    runs = Rounds(arguments.threads, not arguments.keep_cache, arguments.slow_rounds)
    work = {**(QUICK if arguments.quick else FULL), "vocabulary": contestants.shape_of(folder)["vocabulary"]}
    part = part_of(name, chosen, runs)
    if "kl" in arguments.parts:
        part["kl"] = {one.key: kl_of(name, one, arguments) for one in chosen[0]}
    if not arguments.prepare and "decoder" in arguments.parts:
        runs.run(chosen[0], arguments.rounds, work)
    part["how"] = runs.how
    return part


def kl_of(name: str, one: Contestant, arguments: argparse.Namespace) -> Result:
    """Measured once for a file and kept."""
    place = peers.CACHE / "kl" / name
    kept = place / f"{one.engine}-{one.path.name}-{'-'.join(map(str, one.options.values())) or 'plain'}.json"
    if kept.is_file() and not arguments.fresh:
        found: Result = json.loads(kept.read_text())
        return found
    if not (place / "windows.json").is_file():
        texts = {domain: str(path) for domain, path in texts_of(name).items()}
        order = {
            "job": "reference", "path": str(folder_of(name)), "texts": texts, "place": str(place),
            "threads": arguments.threads,
        }  # fmt: skip
        made = call(order)
        if "error" in made:
            return made
    order = {
        "job": "kl", "engine": one.engine, "path": str(one.path), "options": one.options,
        "place": str(place), "threads": arguments.threads,
    }  # fmt: skip
    result = call(order, one.program, one.variables)
    said = result.get("error") or f"{result['kl']:.4g}"
    print(f"KL of {name}, {one.key}: {said}", file=sys.stderr)
    if "error" not in result:
        kept.write_text(json.dumps(result))
    return result


def small(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One thread and two: what is faster for a small model differs."""
    folder = folder_of(name)
    wanted = list(contestants.small_specs(folder, sorted({1, arguments.threads})))
    chosen = contestants.collect(wanted, arguments.only)
    runs = Rounds(arguments.threads, False, arguments.rounds)
    shape = contestants.shape_of(folder)
    context = min(SMALL["context"], shape["positions"])
    if not arguments.prepare:
        work = {**SMALL, "context": context, "vocabulary": shape["vocabulary"]}
        runs.run(chosen[0], arguments.rounds, work)
    return part_of(name, chosen, runs)


def save(data: dict[str, Any], out: Path) -> None:
    """What this run did not measure stays as it was."""
    out.parent.mkdir(exist_ok=True)
    kept = json.loads(out.read_text()) if out.is_file() else {}
    for part in ("models", "whisper", "small"):
        before = kept.get(part, {})
        for name, found in data.get(part, {}).items():
            # only KL was measured
            same = before.get(name) if not found["rounds"] else None
            before[name] = {**same, "kl": found["kl"]} if same and "kl" in found else found
        data[part] = before
    main = data["models"].get(MAIN) or next(iter(data["models"].values()), None)
    data["ratios"] = {
        **(summary.ratios_of(main) if main else {}),
        **summary.whisper_ratios(data["whisper"]),
        **summary.small_ratios(data["small"]),
    }
    out.write_text(json.dumps(data, indent=1))


def arguments_of(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=None, help=f"of {', '.join(REAL_MODELS)}, by comma")
    parser.add_argument("--rounds", type=int, default=None, help="default 5")
    parser.add_argument(
        "--slow-rounds", type=int, default=2, help="of the slow rows that nothing is compared with"
    )
    parser.add_argument("--quick", action="store_true", help="the 0.5 B, 2 short rounds")
    parser.add_argument("--parts", default=None, help=f"of {', '.join(PARTS)}, by comma; default all")
    parser.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="rows with this in their name"
    )
    parser.add_argument("--one-code", action="store_true", help="also ours with one code everywhere")
    parser.add_argument("--more", action="store_true", help="also OpenVINO's other 4-bit kinds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--keep-cache", action="store_true", help="drop a model's own pages only, not the whole page cache"
    )
    parser.add_argument("--fresh", action="store_true", help="measure KL again")
    parser.add_argument("--prepare", action="store_true", help="convert and measure KL, time nothing")
    parser.add_argument("--write", action="store_true", help="fill docs/results.md from the last run")
    found = parser.parse_args(words)
    found.rounds = found.rounds or (2 if found.quick else 5)
    found.models = (found.models or ("qwen2.5-coder-0.5b" if found.quick else MAIN)).split(",")
    found.parts = (found.parts or ("decoder" if found.quick else ",".join(PARTS))).split(",")
    unknown = set(found.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part: {', '.join(sorted(unknown))}")
    return found


def main(words: Sequence[str]) -> None:
    arguments = arguments_of(words)
    if arguments.write:
        write_speed(tables.everything(json.loads(OUT.read_text())))
        return
    begin = time.monotonic()
    out = TRIAL if arguments.quick or arguments.only else OUT
    data: dict[str, Any] = {"machine": machine(), "threads": arguments.threads}
    try:
        data["versions"] = environment.versions()
    except Missing as error:
        print(f"the peers' environment: {error}", file=sys.stderr)
        data["versions"] = {"peers": f"not there ({error})"}

    def finish() -> None:
        if not arguments.prepare:
            save(dict(data), out)

    if {"decoder", "kl"} & set(arguments.parts):
        data["models"] = {}
        for name in present(arguments.models):
            data["models"][name] = decoder(name, arguments)
            finish()
    if "whisper" in arguments.parts:
        data["whisper"] = _whisper(arguments)
        finish()
    if "small" in arguments.parts:
        data["small"] = {name: small(name, arguments) for name in present(SMALL_MODELS)}
        finish()
    print(f"took {(time.monotonic() - begin) / 60:.0f} minutes", file=sys.stderr)
    if not arguments.prepare:
        print(tables.everything(json.loads(out.read_text())))


def _whisper(arguments: argparse.Namespace) -> dict[str, Any]:
    found = {}
    for name in whisper.MODELS:
        # a pass over the large shape takes many seconds
        rounds = arguments.rounds if name == "whisper-base" else min(3, arguments.rounds)
        try:
            found[name] = whisper.measure(name, 0 if arguments.prepare else rounds, arguments.threads)
        except Missing as error:
            print(f"{name}: {error}", file=sys.stderr)
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main(sys.argv[1:])
