"""The public functions; each verb of the command line is one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from higgsx import io
from higgsx.archive import Archive
from higgsx.errors import IntegrityError, UsageError
from higgsx.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import nn

    from higgsx.fidelity.report import Damage
    from higgsx.pipeline.check import Checkable
    from higgsx.pipeline.compress import Result
    from higgsx.pipeline.forecast import Forecast
    from higgsx.pipeline.plan import Progress
    from higgsx.report import Report
    from higgsx.source.checkpoint import Checkpoint
    from higgsx.tasks import Task
else:
    # what a function needs it imports itself: running a file in the lean decoder needs no torch
    torch = lazy("torch")


def _silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def compress(
    model: str | Path | nn.Module,
    out: str | Path | None = None,
    *,
    task: Task | None = None,
    batches: Sequence[Any] = (),
    bits: float | str | None = None,
    size: int | str | None = None,
    policy: str = "free",
    keep: Sequence[str] = (),
    allow: Sequence[str] = (),
    method: str = "rtn",
    plan: str | Path | None = None,
    max_kl: float | str | None = None,
    gradients: bool = False,
    calibration: str | Path | None = None,
    calibration_tokens: int | None = None,
    table: str | Path | None = None,
    check: bool = True,
    check_text: str | Path | None = None,
    max_damage: float | None = None,
    force: bool = False,
    revision: str | None = None,
    token: str | None = None,
    progress: Progress = _silent,
) -> Result:
    """Compress a model folder or Hub id, or a module of any class, to one `.hgs` file.

    out         file to write; None: the model's name in the current folder
    task        of a module: how it is called, what its outputs are; `batches` of that task are what it is run
                on. A folder has its own
    bits, size  the budget: average bits of a weight, or bytes of the file (`"800MB"`); neither: 4.25 bits
    policy      "free", or "hybrid": what the model reads and says stays exact
    keep        patterns of tensors that stay exact
    allow       codes that may be used
    plan        a plan file to follow
    max_kl      instead of a budget: the smallest file whose measured mean KL (nats per token) is at most this
    gradients   learn which weights matter, from text that the model writes itself
    calibration learn it from this material: a text, clips, pairs, what the model's task reads
    calibration_tokens  how much of it; None: 8192
    table       a file to keep the cost table in; if it is there, it is used and nothing is measured again
    check       measure the damage, on `check_text` or on the package's own openings
    max_damage  mean KL in nats per token above which the result is refused (DamageError)

    Every failure is a subclass of `higgsx.errors.HiggsxError` and leaves no file behind.
    """
    from higgsx.almpq.plan import Plan
    from higgsx.pipeline.compress import Checking
    from higgsx.pipeline.compress import compress as encode
    from higgsx.pipeline.learn import Learning
    from higgsx.pipeline.options import Options

    if plan is not None and not (bits is size is max_kl is None):
        raise UsageError("a plan brings its own budget", got="plan and bits or size", expected="one of them")
    options = Options.make(bits, size, policy, tuple(keep), tuple(allow), method, max_kl)
    learning = Learning.make(gradients, calibration, calibration_tokens)
    checking = Checking(check, check_text, max_damage)
    target = _target(model, out)
    io.refuse_existing(target, force)
    given = None if plan is None else Plan.from_text(io.read_text(plan, error=UsageError))
    source, handle = _opened(model, task, batches, revision, token)
    with closing(source):
        return encode(
            source,
            handle,
            target,
            options,
            given=given,
            checking=checking,
            learning=learning,
            table_file=None if table is None else Path(table),
            force=force,
            inputs=[path for path in (plan, check_text, calibration, table) if path is not None],
            progress=progress,
        )


def _target(model: str | Path | nn.Module, out: str | Path | None) -> Path:
    if out is not None:
        return Path(out)
    if not isinstance(model, (str, Path)):
        raise UsageError("a module has no name for the file", expected="out: the file to write")
    return Path(f"{Path(model).resolve().name}.hgs")


def _opened(
    model: str | Path | nn.Module,
    task: Task | None,
    batches: Sequence[Any],
    revision: str | None,
    token: str | None,
) -> tuple[Checkpoint, Checkable]:
    """What is read, and how its model is built and called."""
    if isinstance(model, (str, Path)):
        from higgsx.integrations.hf.model import HFModel
        from higgsx.source.hub import open_source

        if task is not None or batches:
            raise UsageError("a folder has a task of its own", got="task or batches", expected="neither")
        source = open_source(model, revision, token)
        return source, HFModel.of(source)
    from higgsx.pipeline.module import ModuleHandle
    from higgsx.source.module import ModuleSource

    if task is None:
        raise UsageError("a module needs a task", got="none", expected="task and batches, see higgsx.Task")
    return ModuleSource.of(model), ModuleHandle(model, task, batches)


def plan(
    model: str | Path,
    *,
    bits: float | str | None = None,
    size: int | str | None = None,
    policy: str = "free",
    keep: Sequence[str] = (),
    allow: Sequence[str] = (),
    method: str = "rtn",
    max_kl: float | str | None = None,
    gradients: bool = False,
    calibration: str | Path | None = None,
    calibration_tokens: int | None = None,
    table: str | Path | None = None,
    sample: bool = False,
    plan_file: str | Path | None = None,
    force: bool = False,
    revision: str | None = None,
    token: str | None = None,
    progress: Progress = _silent,
) -> Forecast:
    """What `compress` would do: choices, bytes, predicted loss, RAM and time, from configuration and headers.

    sample     measure errors on samples of the weights, as `compress` does; then the plan is the same
    gradients, calibration, calibration_tokens, table  as in `compress`, and then the plan is the same too
    plan_file  write the plan there
    """
    from higgsx.integrations.hf.model import HFModel
    from higgsx.pipeline.forecast import forecast
    from higgsx.pipeline.learn import Learning
    from higgsx.pipeline.options import Options
    from higgsx.source.hub import open_source

    options = Options.make(bits, size, policy, tuple(keep), tuple(allow), method, max_kl)
    learning = Learning.make(gradients, calibration, calibration_tokens)
    kept = None if table is None else Path(table)
    if plan_file is not None:
        io.refuse_existing(plan_file, force)
    with closing(open_source(model, revision, token)) as source:
        found = forecast(source, HFModel.of(source), options, sample, progress, learning, kept)
    if plan_file is not None:
        io.write_file_atomic(plan_file, found.plan.to_text().encode())
    return found


def load(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    packed: bool | None = None,
    runtime: bool = False,
    context: int | None = None,
    sequences: int | None = None,
    precision: str | None = None,
    cache: str | None = None,
    threads: int | None = None,
    into: nn.Module | None = None,
    verify: bool = False,
) -> Any:
    """A file as a model to run: `(model, tokenizer)`, or the module given as `into`, filled.

    dtype   arithmetic of the model; None: bfloat16
    packed  True: weights stay compressed, RAM near the file's size; False: expanded once; None: packed where
            native kernels run, else expanded if the RAM allows. Which it became is said in a log line and
            stands in `model.hgs_state`.
    runtime True: `(engine, tokenizer)` of the lean decoder, which needs neither torch nor transformers;
            ModelError for models that it does not know. It alone takes `context`, `sequences`, `precision`,
            `cache` and `threads`: see `higgsx.runtime.engine.Engine`
    into    a module of any class whose parameters have the names of the file's tensors
    verify  read every byte first; IntegrityError names what is damaged
    """
    given = {
        "context": context, "sequences": sequences, "precision": precision, "cache": cache, "threads": threads
    }  # fmt: skip
    engine = {name: value for name, value in given.items() if value is not None}
    if engine and not runtime:
        raise UsageError("only the lean decoder takes these", got=", ".join(engine), expected="runtime=True")
    archive = Archive.open(path)
    if verify:
        damaged = archive.verify()
        if damaged:
            raise IntegrityError("file is damaged", where=path, got=", ".join(damaged[:8]), code="CHECKSUM")
    if runtime:
        if device is not None or dtype is not None or packed is not None or into is not None:
            raise UsageError("the lean decoder takes no device, dtype, packed or into")
        from higgsx.runtime.lean import lean_of

        lean = lean_of(archive, **engine)
        return lean, lean.tokenizer
    if into is not None:
        from higgsx.nn.densify import densify
        from higgsx.nn.stored import fill_from

        fill_from(archive, into, dtype)
        if packed is False:
            densify(into)
        return into
    from higgsx.integrations.hf.model import load_archive

    return load_archive(archive, device=device, dtype=dtype or torch.bfloat16, packed=packed)


def inspect(path: str | Path) -> Report:
    """What is in a file; reads the header and the damage record."""
    from higgsx.report import report_of

    with Archive.open(path) as archive:
        return report_of(archive)


def verify(path: str | Path, progress: Progress = _silent) -> list[str]:
    """Read every byte; the names of damaged tensors and parts, empty if the file is as it was written."""
    with Archive.open(path) as archive:
        return archive.verify(lambda done, total: progress("reading", done, total))


def unpack(path: str | Path, folder: str | Path, *, force: bool = False, progress: Progress = _silent) -> int:
    """Write an ordinary bfloat16 folder; returns the bytes of its weights."""
    from higgsx.unpacking import unpack as write

    with Archive.open(path) as archive:
        return write(archive, Path(folder), force, lambda done, total: progress("unpacking", done, total))


def evaluate(
    path: str | Path,
    against: str | Path,
    texts: str | Path | Mapping[str, str | Path] | None = None,
    *,
    window: int | None = None,
    windows: int | None = None,
    dtype: torch.dtype | None = None,
    floor: bool = True,
    revision: str | None = None,
    token: str | None = None,
    progress: Progress = _silent,
) -> Damage:
    """Damage of a file against its original, on texts.

    texts    a UTF-8 file, or files by the name of their domain; None: the package's openings
    window   tokens of a window, None: 512, fewer where the model takes fewer; windows: at most so many of
             each text
    dtype    arithmetic of both, None: float32
    floor    also measure the original in bfloat16 against itself
    """
    from higgsx.integrations.hf.model import HFModel
    from higgsx.pipeline.evaluate import evaluate as measure
    from higgsx.source.hub import open_source

    if windows is not None and windows < 1:
        raise UsageError("no windows to measure on", got=windows, expected="1 or more")
    named = {"text": texts} if isinstance(texts, (str, Path)) else texts
    with Archive.open(path) as archive, closing(open_source(against, revision, token)) as source:
        return measure(
            source,
            HFModel.of(source),
            archive,
            named,
            window,
            windows,
            dtype or torch.float32,
            floor,
            progress,
        )
