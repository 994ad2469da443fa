"""What is lost at which size: uniform plans against ALMPQ at the same bytes, on held-back text.

    python benchmarks/fidelity.py [MODEL ...]     measures; results go into benchmarks/out/fidelity.json
    python benchmarks/fidelity.py --write         fills docs/results.md and README.md from there

Weights are encoded and decoded as a file holds them and run in fp32, so the figures are the error of the
weights alone. Language models of 0.5 B and 1.5 B: two windows of 512 tokens of each text, no
beginning-of-text token, as in ../shared/research/anchors.md; small ones: twelve windows of 256 with it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import anchors
import torch
from common import REAL_MODELS, ROOT, SMALL_MODELS, folder_of, machine, present, texts_of
from results import write

from higgsx.almpq.budget import Budget
from higgsx.almpq.plan import Choice, Plan
from higgsx.almpq.solve import solve
from higgsx.almpq.table import CostTable
from higgsx.descriptor import Descriptor
from higgsx.fidelity.compare import compare
from higgsx.fidelity.report import Arithmetic, Damage
from higgsx.fidelity.texts import text_windows
from higgsx.integrations.hf.model import HFModel
from higgsx.pipeline.draft import descriptors_of
from higgsx.pipeline.encode import encode_tensor
from higgsx.pipeline.options import Options
from higgsx.pipeline.plan import budget_of, cost_table
from higgsx.pipeline.survey import Item, survey
from higgsx.pipeline.threads import one_thread_each
from higgsx.source.hub import open_source
from higgsx.tasks import LanguageModel

OUT = ROOT / "benchmarks" / "out" / "fidelity.json"
UNIFORM = ("int8.b64", "int6.b64", "gauss32.b64", "gauss16.b64", "gauss8.b64")
MODE = Arithmetic("weights fp32, arithmetic fp32", "weights fp32, arithmetic fp32")
REAL_WINDOWS, SMALL_WINDOWS = (512, 2), (256, 12)


class Original:
    """The original, run once: what enters its head at every position, and its head."""

    def __init__(self, model: Any, task: LanguageModel, windows: Sequence[torch.Tensor]) -> None:
        self.head = model.get_output_embeddings().weight.detach().clone()
        self.bias = model.get_output_embeddings().bias
        self.hidden: dict[bytes, torch.Tensor] = {}
        seen: list[torch.Tensor] = []
        hook = model.get_output_embeddings().register_forward_pre_hook(
            lambda module, args: seen.append(args[0][0])
        )
        with torch.inference_mode():
            for window in windows:
                task.call(model, window)
                self.hidden[key(window)] = seen.pop()
        hook.remove()


def key(window: torch.Tensor) -> bytes:
    return window.numpy().tobytes()


class Cached(LanguageModel):
    """A language model task that takes the original's part from memory."""

    def pieces(self, model: Any, batch: torch.Tensor, positions: int) -> Iterator[torch.Tensor]:
        if isinstance(model, Original):
            for part in model.hidden[key(batch)].split(positions):
                yield torch.nn.functional.linear(part, model.head, model.bias)
        else:
            yield from super().pieces(model, batch, positions)


def uniform(table: CostTable, label: str) -> Plan:
    """One code wherever it is offered, the rest exact."""
    choices = []
    for group in table.groups:
        candidate = group.find(label) or group.candidates[0]
        choices.append(Choice.of(group, candidate))
    return Plan(tuple(choices), None, table.source, table.digest, table.unit)


def allocated(table: CostTable, bits: Fraction) -> Plan:
    budget = Budget.of_bits(bits)
    return Plan.from_solution(table, solve(table, budget), budget)


def fill(
    model: Any, handle: HFModel, items: Sequence[Item], descriptors: Mapping[str, Descriptor], source: Any
) -> None:
    """Give a model the weights that a file with this plan holds, decoded to fp32."""
    parameters = dict(model.named_parameters(remove_duplicate=False))

    def one(item: Item) -> None:
        weight = source.read(item.name)
        settled, arrays = encode_tensor(weight, descriptors[item.name], where=item.name)
        parameters[handle.names[item.name]].data.copy_(settled.decode(arrays))

    largest_first = sorted((item for item in items if item.counted), key=lambda item: -item.weights)
    with torch.inference_mode(), one_thread_each() as workers, ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, largest_first))


def measure(name: str) -> Iterator[dict[str, object]]:
    source = open_source(folder_of(name))
    handle = HFModel.of(source)
    encoder = handle.encoder()
    length, count = REAL_WINDOWS if name in REAL_MODELS else SMALL_WINDOWS
    windows = {domain: text_windows(path, encoder, length, count) for domain, path in texts_of(name).items()}
    task = Cached(
        lambda model, ids: model(input_ids=ids, use_cache=False).logits,
        lambda model: model.get_output_embeddings(),
    )
    model = handle.materialise(torch.float32)
    original = Original(model, task, [window for members in windows.values() for window in members])
    for policy, make in (("free", plans), ("hybrid", hybrid)):
        options = Options.make(policy=policy)
        items = survey(source, handle, options.policy)
        table = cost_table(source, items, options)
        for kind, at, plan in make(name, source, items, table, options):
            begin = time.perf_counter()
            fill(model, handle, items, descriptors_of(items, plan), source)
            damage = compare(original, model, windows, arithmetic=MODE, text="held-back text", task=task)
            print(f"{name} {kind} {at}: {time.perf_counter() - begin:.0f} s", file=sys.stderr)
            yield row(name, kind, at, plan, damage)


def plans(
    name: str, source: Any, items: Any, table: CostTable, options: Options
) -> Iterator[tuple[str, str, Plan]]:
    for label in UNIFORM:
        plan = uniform(table, label)
        yield "uniform", label, plan
        yield "ALMPQ", label, allocated(table, plan.bits)
    yield "ALMPQ", "4.25 bits", allocated(table, Fraction("4.25"))
    if name == anchors.MODEL:
        for anchor in anchors.LLAMA_CPP:
            yield "ALMPQ", anchor.name, allocated(table, Fraction(anchor.bits))


def hybrid(
    name: str, source: Any, items: Any, table: CostTable, options: Options
) -> Iterator[tuple[str, str, Plan]]:
    budget = budget_of(source, items, table, options)
    yield "ALMPQ hybrid", "4.25 bits inside", Plan.from_solution(table, solve(table, budget), budget)


def row(name: str, kind: str, at: str, plan: Plan, damage: Damage) -> dict[str, object]:
    return {
        "model": name,
        "plan": kind,
        "at": at,
        "megabytes": plan.nbytes / 1e6,
        "bits": float(plan.bits),
        "predicted": plan.loss,
        "damage": damage.to_json(),
    }


def save(rows: Sequence[dict[str, object]]) -> None:
    """Rows of a model replace those measured before; the others stay."""
    OUT.parent.mkdir(exist_ok=True)
    before = json.loads(OUT.read_text())["rows"] if OUT.is_file() else []
    fresh = {(r["model"], r["plan"], r["at"]) for r in rows}
    kept = [r for r in before if (r["model"], r["plan"], r["at"]) not in fresh]
    OUT.write_text(json.dumps({"machine": machine(), "rows": [*kept, *rows]}, indent=1))


def main(words: Sequence[str]) -> None:
    if "--write" in words:
        write(json.loads(OUT.read_text()))
        return
    for name in present(words or (*SMALL_MODELS, *REAL_MODELS)):
        rows = []
        for one in measure(name):
            rows.append(one)
            save(rows)
            kl = one["damage"]["kl"]  # type: ignore[index]
            print(
                f"{name:20} {one['plan']!s:14} {one['at']!s:18} {one['bits']:.3f} bits  KL {kl['mean']:.4g}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
