"""One model on the bench: given the weights that a file holds, run on held-back material, compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from common import ROOT

from damage.subjects import Subject
from higgsx.codecs.dense import Dense
from higgsx.descriptor import Descriptor
from higgsx.errors import UsageError
from higgsx.fidelity.compare import compare
from higgsx.fidelity.quality import Judge
from higgsx.fidelity.report import Arithmetic, Damage
from higgsx.integrations.hf.model import HFModel
from higgsx.pipeline import tables
from higgsx.pipeline.encode import encode_tensor
from higgsx.pipeline.learn import Learned, Learning
from higgsx.pipeline.options import Options
from higgsx.pipeline.survey import Item, survey
from higgsx.pipeline.threads import one_thread_each
from higgsx.source.hub import open_source
from higgsx.tasks import LanguageModel, Task, Wanted

MODE = Arithmetic("weights fp32, arithmetic fp32", "weights fp32, arithmetic fp32")
NEIGHBOURS = 10
OWN, OWN_WINDOW = 6, 256
"""Windows of the model's own text, and their tokens: as long as those that gradients learn from."""
_LEARNED = ROOT / "benchmarks" / "out" / "learned"
"""Saved cost tables, as `--table` keeps them: learning takes minutes, and every script needs the same."""


class Original:
    """A language model, run once: what enters its head at every position, and its head."""

    def __init__(self, model: Any, task: Task, windows: Sequence[torch.Tensor]) -> None:
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
                self.hidden[window.numpy().tobytes()] = seen.pop()
        hook.remove()


class Cached(LanguageModel):
    """A language model task that takes the original's part from memory."""

    def pieces(self, model: Any, batch: torch.Tensor, positions: int) -> Iterator[torch.Tensor]:
        if isinstance(model, Original):
            for part in model.hidden[batch.numpy().tobytes()].split(positions):
                yield torch.nn.functional.linear(part, model.head, model.bias)
        else:
            yield from super().pieces(model, batch, positions)


class Remembering:
    """A judge that asks the original once."""

    def __init__(self, judge: Judge, original: Any) -> None:
        self.rates, self.right = judge.rates, judge.right
        self._judge, self._original = judge, original
        self._known: dict[int, tuple[Any, list[str]]] = {}

    def answers(self, model: Any, batch: Any) -> list[str]:
        if model is not self._original:
            return self._judge.answers(model, batch)
        if id(batch) not in self._known:
            self._known[id(batch)] = batch, self._judge.answers(model, batch)
        return self._known[id(batch)][1]


class Bench:
    """model  fp32, holds whatever `fill` gave it last
    items  of policy `free`
    own    also keep what the original says to text that it writes itself
    """

    def __init__(self, one: Subject, own: bool = False) -> None:
        self.subject, self._own = one, own
        self.source = open_source(one.folder)
        self.handle = HFModel.of(self.source)
        self.items: tuple[Item, ...] = survey(self.source, self.handle)
        self.model = self.handle.materialise(torch.float32)
        self._parameters = dict(self.model.named_parameters(remove_duplicate=False))
        self._holds: dict[str, object] = {}

    @cached_property
    def windows(self) -> dict[str, Sequence[Any]]:
        """Batches of held-back material by domain."""
        one, found = self.subject, {}
        for domain, path in one.check.items():
            made = self.handle.batches(lambda: self.model, Wanted(one.most, path, one.window))
            found[domain] = made.all()
        return found

    @cached_property
    def own(self) -> dict[str, Sequence[Any]]:
        """Text that a language model writes itself, other than that which gradients learn from. The model
        must still be the original when this is asked for first."""
        if not self._own or self.handle.task.kind != "language":
            return {}
        wanted = Wanted(OWN * OWN_WINDOW, window=OWN_WINDOW)
        return dict(self.handle.batches(lambda: self.model, wanted).members)

    @cached_property
    def _sides(self) -> tuple[Task, Any, Judge | None]:
        """Task, original, judge. The model must still be the original when this is asked for first."""
        every = [batch for part in (self.windows, self.own) for members in part.values() for batch in members]
        if self.handle.task.kind == "language":
            task = Cached(
                lambda model, ids: model(input_ids=ids, use_cache=False).logits,
                lambda model: model.get_output_embeddings(),
            )
            return task, Original(self.model, task, every), None
        original = self.handle.materialise(torch.float32)
        judge = self.handle.judge()
        return self.handle.task, original, None if judge is None else Remembering(judge, original)

    @cached_property
    def learned(self) -> Learned:
        """What `compress --gradients` learns (`--calibration` where the subject names material)."""
        learning, options = Learning(True, self.subject.learn), Options.make()
        file = _LEARNED / f"{self.subject.name}.safetensors"
        try:
            return self._held(file, options, learning)
        except UsageError:  # not there, or made for something else
            file.unlink(missing_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        tables.obtain(self.source, self.handle, self.items, options, learning, file)
        return self._held(file, options, learning)

    def _held(self, file: Path, options: Options, learning: Learning) -> Learned:
        _, found = tables.load(file, self.source, options, learning)
        assert found is not None
        return found

    def fill(self, descriptors: Mapping[str, Descriptor], method: str = "rtn") -> None:
        """Give the model the weights that a file with these choices holds, decoded to fp32; tensors that are
        not named get their own. What it holds already is left alone."""

        def one(item: Item) -> None:
            exact = Descriptor(item.info.dtype, item.info.shape, "", Dense(item.info.dtype))
            wanted = descriptors.get(item.name, exact)
            mark = (wanted, method if not wanted.is_dense else "")
            if self._holds.get(item.name, (exact, "")) == mark:
                return
            settled, arrays = encode_tensor(self.source.read(item.name), wanted, method, where=item.name)
            self._parameters[self.handle.names[item.name]].data.copy_(settled.decode(arrays))
            self._holds[item.name] = mark

        largest_first = sorted((item for item in self.items if item.counted), key=lambda item: -item.weights)
        _ = self._sides
        with torch.inference_mode(), one_thread_each() as pool:
            list(pool.map(one, (item for item in largest_first if item.name in self.handle.names)))

    def damage(self, judged: bool = True, own: bool = False) -> Damage:
        """Of what the model holds now, against the original; own: on text that that model wrote."""
        task, original, judge = self._sides
        windows, text = (self.own, "its own text") if own else (self.windows, "held-back material")
        return compare(
            original, self.model, windows, arithmetic=MODE, text=text, task=task,
            judge=judge if judged else None,
        )  # fmt: skip

    def neighbours(self) -> float | None:
        """Of encoders: the share of the nearest texts (by cosine) that stay among the nearest."""
        task, original, _ = self._sides
        pooled: Callable[..., torch.Tensor] | None = getattr(task, "pooled", None)
        if pooled is None:
            return None
        batches = [batch for members in self.windows.values() for batch in members]
        nearest = []
        with torch.inference_mode():
            for model in (original, self.model):
                found = torch.cat([pooled(task.call(model, batch), batch) for batch in batches])
                unit = torch.nn.functional.normalize(found, dim=1)
                nearest.append((unit @ unit.T).fill_diagonal_(-2.0).topk(NEIGHBOURS).indices)
        same = (nearest[0][:, :, None] == nearest[1][:, None, :]).any(2)
        return float(same.float().mean())

    def bits(self, descriptors: Mapping[str, Descriptor]) -> tuple[int, float]:
        """Bytes of all matrices, and bits over their weights, embedding and head included."""
        counted = [item for item in self.items if item.counted]
        nbytes = sum(
            descriptors[item.name].nbytes() if item.name in descriptors else item.info.nbytes
            for item in counted
        )
        return nbytes, nbytes * 8 / sum(item.weights for item in counted)
