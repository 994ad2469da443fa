"""The way of the data, on one screen: source → census → cost table → plan → encode → file → damage."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from higgsx import io
from higgsx.almpq.plan import Plan
from higgsx.archive import Archive
from higgsx.descriptor import Descriptor
from higgsx.errors import DamageError, StorageError, UsageError
from higgsx.fidelity.gate import gate
from higgsx.fidelity.report import Damage, NotMeasured
from higgsx.hgs.writer import Writer
from higgsx.pipeline import encode
from higgsx.pipeline.check import Checkable, Ready, check, prepare
from higgsx.pipeline.draft import descriptors_of, draft_of
from higgsx.pipeline.options import Options
from higgsx.pipeline.plan import Progress, cost_table, follow, make_plan, silent
from higgsx.pipeline.survey import Item, survey
from higgsx.pipeline.threads import one_thread_each
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
    path: Path
    plan: Plan
    content_digest: str
    nbytes: int
    source_bytes: int
    damage: Damage | NotMeasured

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
    force: bool = False,
    inputs: Sequence[str | Path] = (),
    progress: Progress = silent,
) -> Result:
    """Compress a checkpoint to one file.

    given   a plan to follow instead of making one; its choices are checked against the model
    inputs  other files that were read, so that the output may be none of them
    The file appears under its name only when it is complete and verified. DamageError where the gate refuses
    the result, which then stays as `NAME.rejected.hgs`.
    """
    _require_place(out, source, force)
    ready = prepare(source, handle, checking.text) if checking.wanted else NotMeasured("not asked for")
    _require_measurable(ready, checking.limit)
    items = survey(source, handle, options.policy, options.keep)
    table = cost_table(source, items, options, progress=progress)
    if given is None:
        plan = make_plan(source, items, table, options)
    else:
        plan = follow(source, items, table, options, given)
    descriptors = descriptors_of(items, plan)
    draft = draft_of(source, items, descriptors, plan, options)
    with Writer(out, draft, force=force, inputs=[*_files(source), *inputs]) as writer:
        _encode_all(source, items, descriptors, options.method, writer, progress)
        damage: Damage | NotMeasured
        if isinstance(ready, Ready):
            with Archive(writer.open_partial()) as archive:
                damage = check(source, handle, archive, ready, progress)
        else:
            damage = ready
        refused = _refused(damage, plan, checking.limit)
        if refused is not None:
            aside = writer.reject(damage.to_json(), refused)
            raise DamageError(
                "the result is refused",
                where=aside,
                got=refused,
                remedy="ask for more bits, or look at it there",
            )
        digest = writer.finish(damage.to_json())
    return Result(out, plan, digest, writer.size, source.nbytes, damage)


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


def _require_measurable(ready: Ready | NotMeasured, limit: float | None) -> None:
    if limit is not None and isinstance(ready, NotMeasured):
        raise DamageError(
            "a limit is set but the damage cannot be measured", got=ready.reason, remedy="drop the limit"
        )


def _refused(damage: Damage | NotMeasured, plan: Plan, limit: float | None) -> str | None:
    if limit is not None and isinstance(damage, NotMeasured):
        return f"a limit is set but the damage was not measured: {damage.reason}"
    return gate(damage, plan.loss if plan.unit == "nats per token" else None, limit)


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
    with one_thread_each() as workers, ThreadPoolExecutor(workers) as pool:
        try:
            for name, slab in _in_order(_jobs(source, items, descriptors, method, writer, pool), 2 * workers):
                for suffix, data in slab.arrays.items():
                    writer.append(name + suffix, data.numpy())
                done += slab.weights
                progress("encoding", done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_Job = tuple[str, "Future[encode.Slab]"]


def _jobs(
    source: Checkpoint,
    items: Sequence[Item],
    descriptors: Mapping[str, Descriptor],
    method: str,
    writer: Writer,
    pool: ThreadPoolExecutor,
) -> Iterator[_Job]:
    for item in items:
        rows = encode.rows_from(source, item.name, descriptors[item.name])
        settled = encode.settle(descriptors[item.name], rows, item.name)
        writer.set_descriptor(item.name, settled.to_json())
        for begin, end in encode.spans(settled):
            yield item.name, pool.submit(encode.encode_rows, settled, rows, begin, end, method)


def _in_order(jobs: Iterator[_Job], ahead: int) -> Iterator[tuple[str, encode.Slab]]:
    """Results in the order of the jobs, with no more than `ahead` of them in memory."""
    waiting: deque[_Job] = deque()
    for job in jobs:
        waiting.append(job)
        if len(waiting) > ahead:
            name, future = waiting.popleft()
            yield name, future.result()
    for name, future in waiting:
        yield name, future.result()
