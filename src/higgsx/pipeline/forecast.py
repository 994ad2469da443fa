"""What compressing would do and take, told before anything is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from higgsx.almpq.explain import explain
from higgsx.almpq.plan import Choice, Plan
from higgsx.almpq.table import CostTable
from higgsx.codecs.panels import PanelCodec
from higgsx.hgs.draft import total_size
from higgsx.pipeline import encode
from higgsx.pipeline.check import Checkable, needed
from higgsx.pipeline.draft import descriptors_of, draft_of
from higgsx.pipeline.learn import Learning, advice, learning_cost
from higgsx.pipeline.options import Options
from higgsx.pipeline.plan import Progress, cost_table, make_plan, silent
from higgsx.pipeline.survey import Item, survey
from higgsx.pipeline.tables import obtain
from higgsx.source.checkpoint import Checkpoint
from higgsx.units import format_bytes

BASE_RAM = 420 << 20
"""Python, torch, transformers and the model's skeleton, as measured by benchmarks/compress_speed.py."""
_SLAB_COPIES = 8
_TRIAL = 1 << 19


@dataclass(frozen=True)
class Forecast:
    """size     bytes of the finished file
    ram      bytes that encoding holds at most; check_ram: what measuring the damage takes besides
    seconds  of encoding, from the speed that this machine shows now
    sampled  whether errors were measured on the weights; else they are those of Gaussian weights
    learned  whether losses come from gradients; else they are a guess
    learning RAM in bytes and seconds that learning takes, None where nothing can be learned
    advice   the same in words, and what gradients win
    """

    plan: Plan
    table: CostTable
    size: int
    source_bytes: int
    ram: int
    check_ram: int
    seconds: float
    sampled: bool
    learned: bool = False
    learning: tuple[int, float] | None = None
    advice: str = ""

    def shown(self) -> list[Choice]:
        """Matrices, and whatever else is not kept exact."""
        return [choice for choice in self.plan.choices if choice.counted or not choice.exact]

    def summary(self) -> list[str]:
        how = (
            "errors measured on samples"
            if self.sampled
            else "errors of Gaussian weights; --sample measures them"
        )
        return [
            f"{float(self.plan.bits):.4f} bits a weight, file {format_bytes(self.size)} "
            f"({self.source_bytes / self.size:.2f} times smaller)",
            f"predicted loss {self.plan.loss:.3g} {self.plan.unit}: "
            + (f"learned from data ({how})" if self.learned else f"a guess without data ({how})"),
            f"encoding: about {self.seconds:.0f} s and {format_bytes(self.ram)} of RAM; "
            f"measuring the damage: {format_bytes(self.check_ram)}",
            *([] if self.learned or not self.advice else [self.advice]),
            "",
            explain(self.table, self.plan, 10),
        ]

    def to_json(self) -> dict[str, object]:
        return {
            "plan": self.plan.to_json(),
            "bits": float(self.plan.bits),
            "bytes": self.size,
            "source_bytes": self.source_bytes,
            "predicted_loss": self.plan.loss,
            "peak_ram": self.ram,
            "check_ram": self.check_ram,
            "seconds": self.seconds,
            "sampled": self.sampled,
            "learned": self.learned,
            "learning_ram": None if self.learning is None else self.learning[0],
            "learning_seconds": None if self.learning is None else self.learning[1],
        }


def forecast(
    source: Checkpoint,
    handle: Checkable,
    options: Options,
    sample: bool = False,
    progress: Progress = silent,
    learning: Learning = Learning(),  # noqa: B008 - frozen
    table_file: Path | None = None,
) -> Forecast:
    """Survey, cost table and plan; without `sample`, gradients and a table file from headers alone."""
    items = survey(source, handle, options.policy, options.keep)
    learned = False
    if learning.gradients or table_file is not None:
        have = obtain(source, handle, items, options, learning, table_file, False, progress)
        items, table = have.items, have.table
        sample, learned = True, have.losses is not None
    else:
        table = cost_table(source, items, options, sample, progress)
    plan = make_plan(source, items, table, options)
    descriptors = descriptors_of(items, plan)
    size = total_size(draft_of(source, items, descriptors, plan, options))
    seconds = _seconds(items, plan, options)
    cost = learning_cost(source, handle, learning.tokens)
    return Forecast(
        plan, table, size, source.nbytes, _ram(items), needed(source), seconds, sample, learned, cost,
        advice(cost, handle),
    )  # fmt: skip


def _ram(items: Sequence[Item]) -> int:
    workers = torch.get_num_threads()
    slabs = (3 * workers + 1) * encode.SLAB * 4 + workers * encode.SLAB * 4 * _SLAB_COPIES
    apart = max((item.info.nbytes for item in items if item.axes not in ("", "oi")), default=0)
    return BASE_RAM + slabs + apart


def _seconds(items: Sequence[Item], plan: Plan, options: Options) -> float:
    """Weights over the speed of each code, tried for a moment on Gaussian weights."""
    weights: dict[str, int] = {}
    example = {}
    descriptors = descriptors_of(items, plan)
    for item in items:
        descriptor = descriptors[item.name]
        if isinstance(descriptor.codec, PanelCodec):
            label = descriptor.codec.label
            weights[label] = weights.get(label, 0) + item.weights
            example[label] = descriptor
    total = 0.0
    generator = torch.Generator().manual_seed(0)
    for label, count in weights.items():
        inputs = example[label].matrix.inputs
        rows = max(16, min(example[label].matrix.outputs, _TRIAL // inputs))
        x = torch.randn(rows, inputs, generator=generator)
        begin = time.perf_counter()
        encode.encode_rows(example[label], lambda first, last, x=x: x, 0, rows, options.method)  # type: ignore[misc]
        total += (time.perf_counter() - begin) * count / x.numel()
    return total
