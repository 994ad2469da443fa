"""A cost table kept in a file with what it was made from, so that the next budget costs seconds.

The file is plain safetensors: the row vectors of the statistics as arrays, everything else as JSON texts in
its metadata. It names the model, the version and the options that it was made for, and serves no others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from higgsx import __version__, io
from higgsx.almpq.strict import digest
from higgsx.almpq.table import CostTable
from higgsx.calibration.statistics import Bend, Statistics
from higgsx.errors import FormatError, HiggsxError, UsageError
from higgsx.jsontext import parse_json
from higgsx.pipeline.candidates import Losses, learned_losses
from higgsx.pipeline.check import Checkable
from higgsx.pipeline.learn import Learned, Learning, learn
from higgsx.pipeline.options import Options
from higgsx.pipeline.plan import Progress, cost_table, silent
from higgsx.pipeline.survey import Item, with_scales
from higgsx.source.checkpoint import Checkpoint
from higgsx.transforms import channels

_FORMAT = "higgsx.cost_table.2"
_R, _POWERS = ".r", ".powers"


@dataclass(frozen=True)
class Obtained:
    """items   with their channel scales, where there are any
    losses  how losses are predicted; None: by a guess, without data
    """

    items: tuple[Item, ...]
    table: CostTable
    losses: Losses | None


def obtain(
    source: Checkpoint,
    handle: Checkable,
    items: Sequence[Item],
    options: Options,
    learning: Learning,
    file: Path | None = None,
    shared: bool = False,
    progress: Progress = silent,
) -> Obtained:
    """What a plan is made from: of `file` where there is one; else it is made, and kept there.

    UsageError where the file belongs to another model, version or request.
    """
    if file is not None and file.exists():
        table, learned = load(file, source, options, learning)
    else:
        learned = learn(source, handle, items, learning, shared, progress) if learning.gradients else None
        statistics, scales = (None, {}) if learned is None else (learned.statistics, learned.scales)
        ready = with_scales(items, scales)
        table = cost_table(source, ready, options, True, progress, statistics, handle.names)
        if file is not None:
            save(file, table, learned, request_of(source, options, learning))
    if learned is None:
        return Obtained(tuple(items), table, None)
    losses = learned_losses(learned.statistics, handle.names)
    return Obtained(with_scales(items, learned.scales), table, losses)


def request_of(source: Checkpoint, options: Options, learning: Learning) -> dict[str, Any]:
    """What decides the rows of a table: the model, the version, and the options but for the budget."""
    return {
        "version": __version__,
        "source": source.fingerprint,
        "policy": options.policy,
        "keep": sorted(options.keep),
        "allow": sorted(options.allow),
        "method": options.method,
        "learned": learning.described(),
    }


def save(file: Path, table: CostTable, learned: Learned | None, request: Mapping[str, Any]) -> None:
    """Write the file. StorageError where that fails."""
    arrays: dict[str, torch.Tensor] = {}
    about: dict[str, Any] | None = None
    if learned is not None:
        statistics = learned.statistics
        for name, r in statistics.r.items():
            arrays[name + _R], arrays[name + _POWERS] = r.contiguous(), statistics.powers[name].contiguous()
        about = {
            "tokens": statistics.tokens,
            "unit": statistics.unit,
            "text": statistics.text,
            "bends": {name: [one.factor, one.blocks, one.rows] for name, one in statistics.bends.items()},
            "scales": dict(learned.scales),
        }
    metadata = {
        "format": _FORMAT,
        "request": json.dumps(request, sort_keys=True),
        "table": table.to_text(),
        "digest": table.digest,
        "statistics": json.dumps(about, sort_keys=True),
    }
    io.write_file_atomic(file, safetensors.torch.save(arrays, metadata))


def load(
    file: Path, source: Checkpoint, options: Options, learning: Learning
) -> tuple[CostTable, Learned | None]:
    """Read a table and check that it belongs to this request; a table with gradients also serves a request
    that does not ask for them. UsageError names both sides of what differs."""
    metadata, arrays = _read(file)
    try:
        made = parse_json(metadata["request"], where=file, error=UsageError)
        about = parse_json(metadata["statistics"], where=file, error=UsageError)
        table = CostTable.from_text(metadata["table"])
    except KeyError as error:
        raise UsageError("not a saved cost table", where=file, got=f"no {error}") from None
    if not isinstance(made, dict) or digest(table.to_json()) != metadata.get("digest"):
        raise UsageError("the saved cost table is damaged", where=file, remedy="delete it and make it anew")
    wanted = request_of(source, options, learning)
    if not learning.gradients:
        wanted["learned"] = made.get("learned")
    for key, value in wanted.items():
        if made.get(key) != value:
            raise UsageError(
                f"the cost table was made for another {_WORDS.get(key, key)}", where=file,
                got=_shown(made.get(key)), expected=_shown(value),
                remedy="name another file, or delete this one to have it made anew",
            )  # fmt: skip
    return table, None if about is None else _learned(file, about, arrays)


_WORDS = {"source": "model", "version": "version of higgsx", "keep": "list of kept tensors",
          "allow": "list of codes", "learned": "material to learn from"}  # fmt: skip


def _shown(value: object) -> str:
    return "nothing" if value is None else json.dumps(value)


def _read(file: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    try:
        with safetensors.safe_open(str(file), "pt") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise UsageError(
                    "not a saved cost table", where=file, got=metadata.get("format") or "another file",
                    expected=_FORMAT,
                )  # fmt: skip
            return metadata, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except HiggsxError:
        raise
    except Exception as error:  # the library has exceptions of its own
        text = str(error).strip().split("\n")[0][:120]
        raise UsageError("not a saved cost table", where=file, got=text) from None


def _learned(file: Path, about: object, arrays: Mapping[str, torch.Tensor]) -> Learned:
    try:
        data: Any = about
        names = [name.removesuffix(_R) for name in arrays if name.endswith(_R)]
        scales = {str(space): str(text) for space, text in data["scales"].items()}
        for text in scales.values():
            channels.check(text)
        statistics = Statistics(
            {name: arrays[name + _R] for name in names},
            {name: arrays[name + _POWERS] for name in names},
            int(data["tokens"]),
            str(data["unit"]),
            str(data["text"]),
            {str(name): Bend(*map(float, values)) for name, values in data["bends"].items()},
        )
        return Learned(statistics, scales)
    except (FormatError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError("the saved cost table is damaged", where=file, got=error) from None
