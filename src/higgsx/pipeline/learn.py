"""What calibration learns of a model before a plan is made: sensitivities, and how far they hold."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from blake3 import blake3
from torch import nn

from higgsx.calibration.bends import COARSE, COARSE_ROWS, FINE, measure_bends
from higgsx.calibration.channels import Weights, channel_scales, scaled
from higgsx.calibration.sensitivity import sensitivities
from higgsx.calibration.statistics import Statistics
from higgsx.codecs.codebook import Codebook
from higgsx.errors import HiggsxError, MemoryBudgetError, ModelError, TextError, UsageError
from higgsx.pipeline.candidates import descriptor_of, energy_of
from higgsx.pipeline.check import Checkable, early
from higgsx.pipeline.encode import encode_tensor
from higgsx.pipeline.survey import Item, with_scales
from higgsx.pipeline.threads import one_thread_each
from higgsx.source.checkpoint import Checkpoint
from higgsx.tasks import Batches, Wanted
from higgsx.units import format_bytes

TOKENS = 8_192
"""Tokens to learn from, unless asked for otherwise. Measured on a model of 0.5 B: plans from two disjoint
4,000 tokens lose 0.3 % more than each other's best, so more would change nothing."""
MOST_TOKENS = 16_384
FEWEST_TOKENS = 256
FEWEST = {"speech": 128, "image": 32}
"""Positions below which material is refused, by kind of task, else `FEWEST_TOKENS`: single rows would be
noise. A token of speech stands for many frames of sound, and a picture is many patches."""
_CODES = {
    FINE: Codebook.plain("gauss16", 64),
    COARSE: Codebook.plain("gauss4", 64),
    COARSE_ROWS: Codebook.plain("gauss4", 0),
}
_AT_ONCE = 1 << 23
"""Weights of a tensor that are encoded at a time."""
_log = logging.getLogger("higgsx")


@dataclass(frozen=True)
class Learning:
    """gradients  whether to learn anything
    path       the user's material (a text, clips, pairs …); None: from nothing. Implies gradients
    tokens     positions to learn from at most
    """

    gradients: bool = False
    path: Path | None = None
    tokens: int = TOKENS

    def __post_init__(self) -> None:
        if type(self.tokens) is not int or not FEWEST_TOKENS <= self.tokens <= MOST_TOKENS:
            raise UsageError(
                "not a number of tokens to learn from",
                got=self.tokens,
                expected=f"{FEWEST_TOKENS} to {MOST_TOKENS}",
            )
        if self.path is not None:
            object.__setattr__(self, "gradients", True)

    @classmethod
    def make(
        cls, gradients: bool = False, calibration: str | Path | None = None, tokens: int | None = None
    ) -> Learning:
        """From what people type."""
        path = None if calibration is None else Path(calibration)
        if tokens is not None and not gradients and path is None:
            raise UsageError("tokens to learn from, but nothing is to be learned", expected="gradients too")
        return cls(gradients, path, TOKENS if tokens is None else tokens)

    def described(self) -> dict[str, object] | None:
        """What of it decides the result; None where nothing is learned. No paths."""
        if not self.gradients:
            return None
        return {"tokens": self.tokens, "material": "" if self.path is None else _digest(self.path)}


def _digest(path: Path) -> str:
    """BLAKE3 of a file, or of all files in a folder with their names."""
    found = blake3()
    for file in [path] if not path.is_dir() else sorted(one for one in path.rglob("*") if one.is_file()):
        found.update(b"" if file == path else f"\0{file.relative_to(path)}\0".encode())
        found.update_mmap(file) if file.is_file() and file.stat().st_size else None
    return found.hexdigest()


def _prepared(source: Checkpoint, handle: Checkable, learning: Learning, wanted: Wanted) -> Batches | None:
    """Whatever can fail before the model is loaded: its task, the material, RAM. Batches where they can be
    made without it. TextError, ModelError or MemoryBudgetError."""
    if handle.lacks is not None:
        raise ModelError(
            "nothing can be learned of this model",
            where=source.folder,
            got=handle.lacks,
            remedy="compress it without gradients",
        )
    found = early(handle, wanted)
    if found is not None:
        require_enough(found, handle, learning)
    free = psutil.virtual_memory().available
    if ram(source) > free:
        raise MemoryBudgetError(
            "the gradient pass does not fit the free RAM", got=format_bytes(free),
            expected=format_bytes(ram(source)), remedy="close other programs, or compress without gradients",
        )  # fmt: skip
    return found


def require_enough(batches: Batches, handle: Checkable, learning: Learning) -> None:
    """TextError where a user's material holds too little, a warning where tokens are missing, or where
    material from nothing does not stand for what the model will hear."""
    if learning.path is None:
        if handle.task.kind == "speech":
            _log.warning("learning from synthesised voices: %s", _UNLIKE_SPEECH)
        return
    have = sum(handle.task.tokens(batch) for batch in batches.all())
    fewest = FEWEST.get(handle.task.kind, FEWEST_TOKENS)
    what = "pictures" if handle.task.kind == "image" else "tokens"
    if have < fewest:
        raise TextError(
            "too little to learn from", where=learning.path, got=f"{have} {what}",
            expected=f"{fewest} or more ({fewest - have} are missing)",
            remedy="give more, or leave it out: then the model's own text, sounds or random patches serve",
        )  # fmt: skip
    # a window predicts one token less than it holds, and what is left over is not used
    if have < 0.9 * learning.tokens:
        _log.warning(
            "%s: %d %s to learn from, %d are missing; going on",
            learning.path,
            have,
            what,
            learning.tokens - have,
        )


def ram(source: Checkpoint) -> int:
    """Bytes that learning takes: the model in fp32, activations of one batch, its largest kind of layer once
    more."""
    weights = sum(info.nbytes // info.torch_dtype.itemsize for info in source.tensors.values())
    return int(4 * weights * _MORE) + _FIXED


_MORE, _FIXED = 1.45, 1 << 30
"""As measured on models of 0.5 and 1.5 B; see docs/compressing.md."""


def learnable(handle: Checkable) -> bool:
    """Whether gradients can be had at all."""
    try:
        return handle.lacks is None
    except HiggsxError:  # a tokenizer that cannot be made is no reason to fail where none is needed
        return False


def learning_seconds(source: Checkpoint, tokens: int) -> float:
    """About how long learning takes, from the speed of products that this machine shows now."""
    weights = sum(info.nbytes // info.torch_dtype.itemsize for info in source.tensors.values())
    x, w = torch.zeros(256, 1024), torch.zeros(2048, 1024)
    torch.nn.functional.linear(x, w)
    begin = time.perf_counter()
    for _ in range(8):
        torch.nn.functional.linear(x, w)
    speed = 8 * 2 * x.numel() * len(w) / (time.perf_counter() - begin)
    return _OPERATIONS * weights * tokens / speed


_OPERATIONS = 28.0
"""Operations for each weight and token: 2 forward, 2 backward, the rest is drawing text and measuring kinds
of layers. As measured on a model of 0.5 B."""


def learning_cost(source: Checkpoint, handle: Checkable, tokens: int) -> tuple[int, float] | None:
    """RAM in bytes and seconds that learning would take; None where nothing can be learned."""
    return (ram(source), learning_seconds(source, tokens)) if learnable(handle) else None


def advice(cost: tuple[int, float] | None, handle: Checkable) -> str:
    """What gradients would take and win, in one line; empty where nothing can be learned, and for speech,
    where that takes clips."""
    if cost is None or handle.task.kind == "speech":
        return ""
    nbytes, seconds = cost
    long = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    wins = f"; {_WINS}" if handle.task.kind == "language" else ""
    return f"--gradients would take about {long} and {format_bytes(nbytes)} of RAM{wins}"


_WINS = "on models of 0.5 and 1.5 B they lowered the loss by 29 and 30 % at 4.25 bits, 31 and 26 % at 3.5"
"""As measured by benchmarks/fidelity.py, see docs/results.md."""


_UNLIKE_SPEECH = "nobody sounds like them; --calibration takes clips"


@dataclass(frozen=True)
class Learned:
    """statistics  of weights and activations after their channel scales
    scales      input space → its channel scales as text; spaces without are left out
    """

    statistics: Statistics
    scales: Mapping[str, str]


def learn(
    source: Checkpoint,
    handle: Checkable,
    items: Sequence[Item],
    learning: Learning,
    shared: bool = False,
    progress: object = None,
) -> Learned:
    """One pass over the material. The model is held in fp32 meanwhile.

    shared  the same material serves the check: only its share of it is learned from
    """
    tell = progress if callable(progress) else _silent
    wanted = Wanted(learning.tokens, learning.path, part="calibration", shared=shared)
    batches = _prepared(source, handle, learning, wanted)
    # once it has been set, libraries under torch divide their work in one way, else as they like
    torch.set_num_threads(torch.get_num_threads())
    model = handle.materialise(torch.float32)
    tell("drawing text", 0, 1)
    if batches is None:
        batches = handle.batches(lambda: model, wanted)
        require_enough(batches, handle, learning)
    every = batches.all()
    known = _known(model, handle, items)
    found = sensitivities(
        model, handle.task, every, {name: item.axes for name, item in known.items()}, text=batches.described,
        total=len(every), progress=lambda done, total: tell("learning", done, total),
    )  # fmt: skip
    scales, found = _scaled(model, items, known, found)
    known = dict(zip(known, with_scales(list(known.values()), scales), strict=True))
    inputs = {name: item.plain.matrix.inputs for name, item in known.items()}

    @contextmanager
    def coded(names: Sequence[str], code: str) -> Iterator[Mapping[str, float]]:
        with _replaced(model, source, {name: known[name] for name in names}, code) as errors:
            yield errors

    bends = measure_bends(
        model, handle.task, every, found, inputs, coded,
        lambda done, total: tell("measuring kinds of layers", done, total),
    )  # fmt: skip
    return Learned(replace(found, bends=bends), scales)


def _scaled(
    model: nn.Module, items: Sequence[Item], known: Mapping[str, Item], found: Statistics
) -> tuple[dict[str, str], Statistics]:
    """Channel scales of the input spaces whose readers are all known, and what was learned, after them."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    weights: Weights = {name: (parameters[name].data, item.axes) for name, item in known.items()}
    readers: dict[str, list[str]] = {}
    for name, item in known.items():
        if name in found.r and item.transform is not None:
            readers.setdefault(item.space, []).append(name)
    compressed = Counter(item.space for item in items if item.axes and not item.why)
    whole = {space: names for space, names in readers.items() if len(names) == compressed[space]}
    scales = channel_scales(whole, found, weights)
    texts = {name: scales[space] for space, names in whole.items() if space in scales for name in names}
    return scales, scaled(found, texts, weights)


def _silent(stage: str, done: int, total: int) -> None:
    """No progress is shown."""


def _known(model: nn.Module, handle: Checkable, items: Sequence[Item]) -> dict[str, Item]:
    """Parameter name → item, of all that may be compressed and that the model holds as it is stored."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found = {}
    for item in items:
        name = next((handle.names[one] for one in item.names if one in handle.names), None)
        if name in parameters and item.axes and not item.why:
            found[str(name)] = item
    return found


@contextmanager
def _replaced(
    model: nn.Module, source: Checkpoint, items: Mapping[str, Item], code: str
) -> Iterator[Mapping[str, float]]:
    """Parameters as they are after a code, with their relative squared errors; read anew afterwards."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    codec = _CODES[code]
    fit = {
        name: item
        for name, item in items.items()
        if codec.accepts(item.plain.matrix, item.info.dtype) is None
    }

    def one(part: tuple[str, int, int]) -> tuple[str, float, float]:
        """Name, squared error and squared weights of some rows."""
        name, begin, end = part
        item = fit[name]
        whole = descriptor_of(item, codec)
        shape = (end - begin, *whole.shape[1:])
        weight = source.read_rows(item.name, begin, end)
        settled, arrays = encode_tensor(weight, replace(whole, shape=shape), where=item.name)
        decoded = settled.decode(arrays)
        weight = weight.float()
        parameters[name].data[begin:end].copy_(decoded)
        return name, energy_of(decoded - weight), energy_of(weight)

    def back(name: str) -> None:
        for _, begin, end in _parts({name: fit[name]}):
            parameters[name].data[begin:end].copy_(source.read_rows(fit[name].name, begin, end))

    try:
        sums: dict[str, list[float]] = {name: [0.0, 0.0] for name in fit}
        with one_thread_each() as pool:
            for name, error, power in pool.map(one, _parts(fit)):
                sums[name][0] += error
                sums[name][1] += power
        yield {name: error / power for name, (error, power) in sums.items() if power > 0}
    finally:
        for name in fit:
            back(name)


def _parts(items: Mapping[str, Item]) -> Iterator[tuple[str, int, int]]:
    """Every tensor, those whose first dimension counts outputs or experts some of them at a time."""
    for name, item in items.items():
        count = item.info.shape[0]
        step = count if item.axes == "io" else max(1, _AT_ONCE * count // item.weights)
        for begin in range(0, count, step):
            yield name, begin, min(begin + step, count)
