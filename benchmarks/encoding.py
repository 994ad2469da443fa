"""How fast weights become bytes: turn, Hadamard of 128, round to nearest with scale search, pack.

    python benchmarks/encoding.py [--threads 2] [--repeats 5]

Wall time over several slabs at once, each on one thread, and processor time of one slab alone; the second is
the fair number on a machine that others use too. Every slab is decoded again: what is timed must be right.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from higgsx.codecs.base import MatrixShape
from higgsx.codecs.codebook import Codebook
from higgsx.codecs.gaussian import GAUSSIAN_ERROR
from higgsx.codecs.panels import PanelCodec
from higgsx.codecs.uniform import Uniform
from higgsx.rounding.base import exponent_for
from higgsx.rounding.slab import encode_slab
from higgsx.rounding.table import rounding_of
from higgsx.transforms.hadamard import Hadamard

ROWS, INPUTS = 1360, 1536


def forms() -> list[PanelCodec]:
    tables = [Codebook.plain("gauss16", block) for block in (32, 64, 128, 0)]
    others = [Codebook.plain(table, 64) for table in ("gauss4", "gauss8", "gauss32")]
    return [*tables, *others, *(Uniform.symmetric(bits, block) for bits in (4, 6, 8) for block in (64, 0))]


def check(
    codec: PanelCodec, mix: Hadamard, weights: torch.Tensor, payload: torch.Tensor, rows: torch.Tensor | None
) -> None:
    arrays = {"_hgs": payload} if rows is None else {"_hgs": payload, "_hgsr": rows}
    decoded = mix.decode(codec.decode(arrays, MatrixShape(ROWS, INPUTS)).contiguous())
    error = float((decoded - weights.float()).square().sum() / weights.float().square().sum())
    if abs(error / GAUSSIAN_ERROR[codec.label] - 1) > 0.05:
        raise SystemExit(
            f"{codec.label}: relative error {error:.3g}, expected {GAUSSIAN_ERROR[codec.label]:.3g}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    normal = (torch.randn((ROWS, INPUTS), generator=draw) for _ in range(2 * options.threads))
    slabs = [(weights * 0.05).bfloat16() for weights in normal]
    mix, rtn, size = Hadamard(128, "benchmark"), rounding_of("rtn"), ROWS * INPUTS
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{platform.machine()}, {versions}, median of {options.repeats}\n")
    print(f"| form | ns of processor per weight | M weights/s, {options.threads} threads | slowest |")
    print("|---|---|---|---|")
    with ThreadPoolExecutor(options.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for form in forms():
            codec = dataclasses.replace(form, exponent=exponent_for(form, 0.3))  # type: ignore[type-var]
            alone, together = [], []
            for _ in range(options.repeats):
                begin = time.thread_time()
                packed = encode_slab(codec, mix, slabs[0], rtn)
                alone.append(time.thread_time() - begin)
                begin = time.perf_counter()
                list(pool.map(lambda slab, codec=codec: encode_slab(codec, mix, slab, rtn), slabs))
                together.append(size * len(slabs) / (time.perf_counter() - begin) / 1e6)
            check(codec, mix, slabs[0], *packed)
            per_weight = statistics.median(alone) / size * 1e9
            rates = f"{statistics.median(together):.0f} | {min(together):.0f}"
            print(f"| {codec.label} | {per_weight:.1f} | {rates} |", flush=True)


if __name__ == "__main__":
    main()
