"""What each code loses on Gaussian weights, at its real bits. Prints markdown; run it alone.

    python benchmarks/distortion.py                    the tables
    python benchmarks/distortion.py --write-constants  also rewrites src/higgsx/codecs/gaussian.py
    python benchmarks/distortion.py --starts           fits the table of src/higgsx/rounding/starts.py

First the grids alone: one scale for all, the one with the least squared error, by exact integrals; they must
agree with the reference values to 2 %. Then what the encoder makes of them: scales of blocks and rows
stored, packed and decoded again, beside the best that any storable scale could do.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import platform
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch

from higgsx.codecs.base import MatrixShape
from higgsx.codecs.codebook import Codebook
from higgsx.codecs.dense import Dense
from higgsx.codecs.grids import TABLES
from higgsx.codecs.panels import PanelCodec
from higgsx.codecs.uniform import BITS, Uniform
from higgsx.rounding import rtn as rtn_module
from higgsx.rounding.base import exponent_for
from higgsx.rounding.columns import Search, Work, stats_of
from higgsx.rounding.rtn import rtn
from higgsx.transforms.hadamard import Hadamard

BLOCKS = (32, 64, 128, 0)
REFERENCE = {
    "int2": 0.11885,
    "int3": 0.03744,
    "int4": 0.01154,
    "int5": 0.00350,
    "int6": 0.00104,
    "int2 two's complement": 0.14943,
    "int3 two's complement": 0.04064,
    "int4 two's complement": 0.01186,
    "int5 two's complement": 0.00353,
    "int6 two's complement": 0.00104,
    "gauss4": 0.11748,
    "gauss8": 0.03455,
    "gauss16": 0.00950,
    "gauss32": 0.00251,
    "nf4": 0.00990,
}
"""Mean squared error on a unit Gaussian with the best single scale (Max 1960; exact integrals)."""


def gaussian_error(levels: list[float], scale: float) -> float:
    """E (x − nearest level · scale)² for x ~ N(0, 1): a sum of exact integrals between thresholds."""
    points = [level * scale for level in levels]
    edges = [-math.inf, *((a + b) / 2 for a, b in zip(points, points[1:], strict=False)), math.inf]
    total = 0.0
    for point, low, high in zip(points, edges, edges[1:], strict=False):
        mass = 0.5 * (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)))
        first = density(low) - density(high)
        second = mass + weighted(low) - weighted(high)
        total += second - 2 * point * first + point * point * mass
    return total


def density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def weighted(x: float) -> float:
    return 0.0 if math.isinf(x) else x * density(x)


def best_error(levels: list[float]) -> float:
    """The least error over scales, by golden section on its logarithm."""
    top = max(abs(level) for level in levels)
    low, high = math.log(1.0 / top), math.log(8.0 / top)
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(80):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        if gaussian_error(levels, math.exp(a)) < gaussian_error(levels, math.exp(b)):
            high = b
        else:
            low = a
    return gaussian_error(levels, math.exp((low + high) / 2))


def grids() -> Iterator[tuple[str, float, PanelCodec]]:
    for bits in BITS:
        yield f"int{bits}", bits, Uniform.symmetric(bits, 0)
        yield f"int{bits} two's complement", bits, Uniform(bits, 0, "f16", "none", 1 << bits, 0)
    for table in TABLES:
        yield table, math.log2(len(TABLES[table])), Codebook.plain(table, 0)


def forms() -> Iterator[PanelCodec]:
    """What the planner may choose from."""
    for block in BLOCKS:
        for bits in BITS:
            yield Uniform.symmetric(bits, block)
        for table in TABLES:
            yield Codebook.plain(table, block)


def gaussian(seed: int, outputs: int, inputs: int) -> torch.Tensor:
    return torch.randn((outputs, inputs), generator=torch.Generator().manual_seed(seed))


def heavy(seed: int, outputs: int, inputs: int) -> torch.Tensor:
    """Student's t with 5 degrees of freedom: tails as weights without a Hadamard may have them."""
    normal, squares = gaussian(seed, outputs, inputs), 0.0
    for part in range(5):
        squares = squares + gaussian(1000 + 5 * seed + part, outputs, inputs) ** 2
    return normal / (squares / 5).sqrt()


def relative_error(codec: PanelCodec, weights: torch.Tensor, transform: Hadamard | None = None) -> float:
    """Encode, pack, decode: squared error over squared weights."""
    codec = dataclasses.replace(codec, exponent=exponent_for(codec, weights.abs().max()))  # type: ignore[type-var]
    x = weights.t().contiguous()
    if transform is not None:
        x = transform.encode(x)
    payload, rows = codec.pack(*rtn(codec, x))
    arrays = {"_hgs": payload} if rows is None else {"_hgs": payload, "_hgsr": rows}
    decoded = codec.decode(arrays, MatrixShape(*weights.shape)).contiguous()
    if transform is not None:
        decoded = transform.decode(decoded)
    return float((decoded.double() - weights).square().sum() / weights.double().square().sum())


def exhaustive_error(codec: PanelCodec, weights: torch.Tensor) -> float:
    """The same with every scale that can be stored: all 255 bytes, or float16 scales 0.2 % apart."""
    usual = rtn_module._search_scale

    def search(at: Search, first: torch.Tensor, width: int) -> object:
        if at.row is not None:
            return at.without_small(at.best_of(torch.arange(1.0, 256.0)[:, None] * at.row))
        ratios = torch.tensor([0.5 * 1.002**step for step in range(600)])[:, None]
        return at.without_small(at.best_of(first * ratios))

    rtn_module._search_scale = search  # type: ignore[assignment]
    try:
        return relative_error(codec, weights)
    finally:
        rtn_module._search_scale = usual


def bits_of(codec: PanelCodec, outputs: int, inputs: int) -> float:
    return codec.nbytes(MatrixShape(outputs, inputs)) * 8 / (outputs * inputs)


def print_grids() -> None:
    print("\n### Grids: one scale, unit Gaussian, exact integrals\n")
    print("| grid | bits | error | 4^-R | gap, dB | reference | difference |\n|---|---|---|---|---|---|---|")
    for name, bits, codec in grids():
        error = best_error(codec.levels().tolist())
        reference = REFERENCE.get(name)
        if reference is not None and abs(error / reference - 1) > 0.02:
            raise SystemExit(f"{name}: error {error:.5f} is not within 2 % of {reference:.5f}")
        beside = (
            "| - | - |"
            if reference is None
            else f"| {reference:.5f} | {100 * (error / reference - 1):+.1f} % |"
        )
        print(f"| {name} | {bits:g} | {error:.5f} | {4**-bits:.5f} | {gap(error, bits):.2f} {beside}")


def gap(error: float, bits: float) -> float:
    return 10 * math.log10(error * 4**bits)


def print_forms(outputs: int, inputs: int, seeds: int) -> dict[str, float]:
    print(f"\n### Forms of the planner, {outputs} rows of {inputs}, median of {seeds} draws\n")
    print("Relative squared error. `over best`: how much the best scales that could be stored would gain.\n")
    print("| form | bits | Gaussian | spread | gap, dB | over best | with Hadamard | t5 | t5, Hadamard |")
    print("|---|---|---|---|---|---|---|---|---|")
    mix = Hadamard(128, "benchmark")
    constants = {}
    for codec in forms():
        draws = [relative_error(codec, gaussian(seed, outputs, inputs)) for seed in range(seeds)]
        error, spread = statistics.median(draws), (max(draws) - min(draws)) / min(draws)
        few = gaussian(0, 64, inputs)
        over = relative_error(codec, few) / exhaustive_error(codec, few) - 1
        mixed = relative_error(codec, gaussian(0, outputs, inputs), mix)
        tails = heavy(0, outputs, inputs)
        bits = bits_of(codec, outputs, inputs)
        measured = f"{error:.3g} | {100 * spread:.1f} % | {gap(error, bits):.2f} | {100 * over:+.1f} %"
        others = f"{mixed:.3g} | {relative_error(codec, tails):.3g} | {relative_error(codec, tails, mix):.3g}"
        print(f"| {codec.label} | {bits:.3f} | {measured} | {others} |", flush=True)
        constants[codec.label] = error
    return constants


def write_constants(constants: dict[str, float]) -> None:
    weights = gaussian(0, 512, 2048)
    for dtype in ("BF16", "F16"):
        codec = Dense(dtype)
        rounded = weights.to(codec.torch_dtype).double()
        constants[codec.label] = float((rounded - weights).square().sum() / weights.double().square().sum())
    rows = "".join(f'    "{label}": {float(f"{error:.4g}")!r},\n' for label, error in constants.items())
    path = Path(__file__).parent.parent / "src" / "higgsx" / "codecs" / "gaussian.py"
    path.write_text(
        '"""What each form loses on Gaussian weights, for plans made before any weight is read.\n\n'
        "Label of a codec → squared error over squared weights, as encoded with `rtn`; whole rows have 2048\n"
        "inputs. Generated by `benchmarks/distortion.py --write-constants`; do not edit.\n"
        '"""\n\nfrom __future__ import annotations\n\n'
        f"GAUSSIAN_ERROR: dict[str, float] = {{\n{rows}}}\n",
        encoding="utf-8",
    )
    print(f"\nwritten: {path.name}")


def print_starts() -> None:
    """Least squares for a and b in `scale · top ≈ a · absmax + b · rms`, weighted to relative error."""
    for name in (*TABLES, *(f"int{bits}" for bits in BITS)):
        fits = []
        for width, count in ((32, 2000), (64, 2000), (128, 2000), (1024, 200)):
            codec = Codebook.plain(name, 0) if name in TABLES else Uniform.symmetric(int(name[3:]), 0)
            x = gaussian(0, width, count)
            top = float(codec.levels().abs().max())
            search = Search(codec, x, stats_of(x, Work(x.numel())), None, Work(x.numel()))
            largest, rms = x.abs().amax(0), x.square().mean(0).sqrt()
            ratios = torch.logspace(-1.2, 0.15, 400)[:, None]
            best = search.best_of(largest / top * ratios).multiplier * top
            fits.append(fit(largest / best, rms / best))
        print(f'    "{name}": ({", ".join(f"({a:.3f}, {b:.3f})" for a, b in fits)}),', flush=True)


def fit(largest: torch.Tensor, rms: torch.Tensor) -> tuple[float, float]:
    both = torch.stack((largest, rms), dim=1)
    a, b = torch.linalg.lstsq(both, torch.ones(len(both), 1)).solution.flatten().tolist()
    if b < 0:
        return float(1 / largest.mean()), 0.0
    return (a, b) if a >= 0 else (0.0, float(1 / rms.mean()))


def machine() -> str:
    """Name of the processor, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write-constants", action="store_true")
    parser.add_argument("--starts", action="store_true")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    if options.starts:
        print_starts()
        return
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{machine()}, {torch.get_num_threads()} threads, {versions}")
    print_grids()
    constants = print_forms(options.rows, 2048, options.draws)
    if options.write_constants:
        write_constants(constants)


if __name__ == "__main__":
    main()
