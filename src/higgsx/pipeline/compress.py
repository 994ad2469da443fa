"""The way of the data, on one screen: source → census → cost table → plan → encode → file → damage."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from higgsx import io
from higgsx.almpq.plan import Plan
from higgsx.archive import Archive
from higgsx.descriptor import Descriptor
from higgsx.errors import DamageError, StorageError, UsageError
from higgsx.fidelity.gate import doubt, gate
from higgsx.fidelity.report import Damage, NotMeasured
from higgsx.hgs.writer import Writer
from higgsx.pipeline import encode as encoding
from higgsx.pipeline.check import Checkable, Ready, check, prepare
from higgsx.pipeline.draft import descriptors_of, draft_of
from higgsx.pipeline.learn import Learning, advice, learning_cost
from higgsx.pipeline.options import Options
from higgsx.pipeline.plan import Progress, follow, make_plan, silent
from higgsx.pipeline.survey import Item, survey
from higgsx.pipeline.tables import obtain
from higgsx.pipeline.target import require_within, within_loss
from higgsx.pipeline.threads import Pool, one_thread_each
from higgsx.source.checkpoint import Checkpoint


@dataclass(frozen=True)
class Checking:
    """Whether and on what the damage is measured; limit: the mean KL in nats per token that is too much."""

    wanted: bool = True
    text: str | Path | None = None
    limit: float | None = None

    def __post_init__(self) -> None:
        if not self.wanted and (self.text is not None or self.limit is not None):
            raise UsageError("without a check there is neither a text nor a limit", expected="one of them")
        if self.limit is not None and not 0 <= self.limit < math.inf:
            raise UsageError("not a limit of damage", got=self.limit, expected="nats per token, 0 or more")


@dataclass(frozen=True)
class Result:
    """learned  whether the plan comes from gradients
    advice   what gradients would take and win, where there are none; where there are, and measuring
             contradicts them, what to try
    """

    path: Path
    plan: Plan
    content_digest: str
    nbytes: int
    source_bytes: int
    damage: Damage | NotMeasured
    learned: bool = False
    advice: str = ""

    @property
    def bits(self) -> float:
        return float(self.plan.bits)

    def to_json(self) -> dict[str, object]:
        return {
            "file": str(self.path),
            "bytes": self.nbytes,
            "source_bytes": self.source_bytes,
            "bits": self.bits,
            "predicted_loss": self.plan.loss,
            "learned": self.learned,
            "content_digest": self.content_digest,
            "damage": self.damage.to_json(),
        }


def compress(
    source: Checkpoint,
    handle: Checkable,
    out: Path,
    options: Options,
    *,
    given: Plan | None = None,
    checking: Checking = Checking(),  # noqa: B008 - frozen
    learning: Learning = Learning(),  # noqa: B008 - frozen
    table_file: Path | None = None,
    force: bool = False,
    inputs: Sequence[str | Path] = (),
    progress: Progress = silent,
) -> Result:
    """Compress a checkpoint to one file.

    given       a plan to follow instead of making one; its choices are checked against the model
    learning    whether and from what the losses are learned
    table_file  where the cost table is kept: read if it is there, else written
    inputs      other files that were read, so that the output may be none of them
    The file appears under its name only when it is complete and verified. DamageError where the gate refuses
    the result, which then stays as `NAME.rejected.hgs`.
    """
    _require_place(out, source, force)
    shared = _shared(checking, learning)
    ready = (
        prepare(source, handle, checking.text, shared) if checking.wanted else NotMeasured("not asked for")
    )
    _require_measurable(ready, checking.limit, options)
    items = survey(source, handle, options.policy, options.keep)
    have = obtain(source, handle, items, options, learning, table_file, shared, progress)
    items, table, losses = have.items, have.table, have.losses
    learned = losses is not None
    encode = Encoding(
        source, handle, items, options, out, ready, checking.limit, learned, force, inputs, progress
    )
    if given is not None:
        result = encode(follow(source, items, table, options, given, losses))
    elif options.max_kl is None:
        result = encode(make_plan(source, items, table, options))
    else:
        result = within_loss(table, float(options.max_kl), encode)
    if learned:
        return replace(
            result, learned=True, advice=doubt(result.damage, _predicted(result.damage, result.plan))
        )
    return replace(result, advice=advice(learning_cost(source, handle, learning.tokens), handle))


def _shared(checking: Checking, learning: Learning) -> bool:
    """Whether one file serves both, and so must be divided."""
    if checking.text is None or learning.path is None:
        return False
    return io.same_file(checking.text, learning.path)


@dataclass(frozen=True)
class Encoding:
    """A plan to a file, as often as it is asked for; the fields are arguments of `compress`, `learned` as in
    `Result`."""

    source: Checkpoint
    handle: Checkable
    items: Sequence[Item]
    options: Options
    out: Path
    ready: Ready | NotMeasured
    limit: float | None
    learned: bool
    force: bool
    inputs: Sequence[str | Path]
    progress: Progress

    def __call__(self, plan: Plan, most: float | None = None) -> Result:
        """DamageError where the gate refuses the result. OverTarget, and no file, where the mean of what was
        measured is above `most`."""
        descriptors = descriptors_of(self.items, plan)
        draft = draft_of(self.source, self.items, descriptors, plan, self.options)
        inputs = [*_files(self.source), *self.inputs]
        with Writer(self.out, draft, force=self.force, inputs=inputs) as writer:
            _encode_all(self.source, self.items, descriptors, self.options.method, writer, self.progress)
            damage = self._damage(writer)
            if most is not None:
                require_within(damage, most)
            refused = _refused(damage, plan, self.limit, self.learned)
            if refused is not None:
                aside = writer.reject(damage.to_json(), refused)
                raise DamageError(
                    "the result is refused",
                    where=aside,
                    got=refused,
                    remedy="ask for more bits, or look at it there",
                )
            digest = writer.finish(damage.to_json())
        return Result(self.out, plan, digest, writer.size, self.source.nbytes, damage)

    def _damage(self, writer: Writer) -> Damage | NotMeasured:
        if not isinstance(self.ready, Ready):
            return self.ready
        with Archive(writer.open_partial()) as archive:
            return check(self.source, self.handle, archive, self.ready, self.progress)


def _require_place(out: Path, source: Checkpoint, force: bool) -> None:
    """StorageError where the file cannot stand, before any work is done."""
    place, folder = Path(os.path.realpath(out)), source.folder.resolve()
    if place == folder or folder in place.parents:
        raise StorageError(
            "the output lies in the model's own folder", where=out, remedy="choose another place", code="SAME"
        )
    if not place.parent.is_dir():
        raise StorageError("there is no such folder", where=place.parent)
    io.refuse_existing(out, force)


def _require_measurable(ready: Ready | NotMeasured, limit: float | None, options: Options) -> None:
    if isinstance(ready, NotMeasured) and (limit is not None or options.max_kl is not None):
        raise DamageError(
            "a limit is set but the damage cannot be measured", got=ready.reason, remedy="drop the limit"
        )


def _refused(damage: Damage | NotMeasured, plan: Plan, limit: float | None, learned: bool) -> str | None:
    if isinstance(damage, NotMeasured):
        return None if limit is None else f"a limit is set but the damage was not measured: {damage.reason}"
    return gate(damage, _predicted(damage, plan), limit, learned)


def _predicted(damage: Damage | NotMeasured, plan: Plan) -> float | None:
    """The plan's loss, where it is in the unit of what was measured."""
    return None if isinstance(damage, NotMeasured) or plan.unit != damage.total.unit else plan.loss


def _files(source: Checkpoint) -> list[Path]:
    return sorted({info.file for info in source.tensors.values()})


def _encode_all(
    source: Checkpoint,
    items: Sequence[Item],
    descriptors: Mapping[str, Descriptor],
    method: str,
    writer: Writer,
    progress: Progress,
) -> None:
    total, done = sum(item.weights for item in items), 0
    with one_thread_each() as pool:
        for name, slab in _in_order(_jobs(source, items, descriptors, method, writer, pool), pool):
            for suffix, data in slab.arrays.items():
                writer.append(name + suffix, data.numpy())
            done += slab.weights
            progress("encoding", done, total)


_Job = tuple[str, "Future[encoding.Slab]"]


def _jobs(
    source: Checkpoint,
    items: Sequence[Item],
    descriptors: Mapping[str, Descriptor],
    method: str,
    writer: Writer,
    pool: Pool,
) -> Iterator[_Job]:
    for item in items:
        rows = encoding.rows_from(source, item.name, descriptors[item.name])
        settled = encoding.settle(descriptors[item.name], rows, item.name)
        writer.set_descriptor(item.name, settled.to_json())
        for begin, end in encoding.spans(settled):
            yield item.name, pool.submit(encoding.encode_rows, settled, rows, begin, end, method)


def _in_order(jobs: Iterator[_Job], pool: Pool) -> Iterator[tuple[str, encoding.Slab]]:
    """Results in the order of the jobs, with no more than a few of them in memory."""
    waiting: deque[_Job] = deque()
    for job in jobs:
        waiting.append(job)
        if len(waiting) > 2 * pool.workers:
            name, future = waiting.popleft()
            yield name, pool.result(future)
    for name, future in waiting:
        yield name, pool.result(future)
