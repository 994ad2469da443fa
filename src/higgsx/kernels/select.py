"""The one table of kernels: (operation, codec family, device, tier) → function, chosen with a reason.

A new kernel is one row of `TABLE`. Native processor kernels are `kernels/cpu.py`, GPU ones will be
`kernels/triton/`; both are compared with `reference.py`. The environment variable HIGGSX_KERNELS names a
kernel to use wherever it can serve.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from higgsx.errors import SlowWarning, UsageError
from higgsx.kernels import cpu, native, reference

VARIABLE = "HIGGSX_KERNELS"
_log = logging.getLogger("higgsx")

Function = Callable[..., torch.Tensor]


def _always() -> str | None:
    return None


@dataclass(frozen=True)
class Kernel:
    """name      what HIGGSX_KERNELS and `force` call it
    op        decode, linear, matmul, embedding or conv
    function  same arguments and meaning as the function of that name in `reference`
    families  codec ids it reads, None: all
    devices   device types it runs on, None: all
    tier      the highest that can serve is taken
    missing   None, or why this machine cannot run it
    declines  given the same arguments: None, or why this call is left to the reference
    """

    name: str
    op: str
    function: Function
    families: frozenset[str] | None = None
    devices: frozenset[str] | None = None
    tier: int = 0
    missing: Callable[[], str | None] = _always
    declines: Callable[..., str | None] | None = None

    def serves(self, op: str, family: str, device: str) -> bool:
        fits_family = self.families is None or family in self.families
        return self.op == op and fits_family and (self.devices is None or device in self.devices)


def _native(op: str, function: Function, declines: Callable[..., str | None]) -> Kernel:
    return Kernel("native", op, function, cpu.FAMILIES, frozenset({"cpu"}), 1, native.available, declines)


TABLE: tuple[Kernel, ...] = (
    _native("decode", cpu.decode, cpu.declines_decode),
    _native("linear", cpu.linear, cpu.declines_product),
    _native("matmul", cpu.matmul, cpu.declines_product),
    _native("embedding", cpu.embedding, cpu.declines_embedding),
    _native("conv", cpu.conv, cpu.declines_conv),
    Kernel("reference", "decode", reference.decode),
    Kernel("reference", "linear", reference.linear),
    Kernel("reference", "matmul", reference.matmul),
    Kernel("reference", "embedding", reference.embedding),
    Kernel("reference", "conv", reference.conv),
)
REFERENCE = {row.op: row for row in TABLE if row.name == "reference"}


class _Memory:
    """What was chosen before, from which table."""

    table: tuple[Kernel, ...] = ()
    kernels: dict[tuple[str, str, str, str | None, str | None], Kernel] = {}
    warned = False


def chosen(op: str, family: str, device: str, force: str | None = None) -> Kernel:
    """The kernel that `choose` names, remembered. One warning where packed weights are served slowly."""
    if _Memory.table is not TABLE:
        _Memory.table, _Memory.kernels = TABLE, {}
    key = op, family, device, force, os.environ.get(VARIABLE)
    kernel = _Memory.kernels.get(key)
    if kernel is None:
        kernel, _ = choose(op, family, device, force)
        _Memory.kernels[key] = kernel
        if kernel.name == "reference" and device == "cpu" and op in ("linear", "matmul") and not any(key[3:]):
            _say_slow(family)
    return kernel


def _say_slow(family: str) -> None:
    why = native.available()
    if why is None or family not in cpu.FAMILIES or _Memory.warned:
        return
    _Memory.warned = True
    text = (
        f"no native kernels ({why}): every use of a compressed weight decodes it, hundreds of times slower "
        "than the native product; packed=False or --no-packed decodes once"
    )
    _log.warning(text)
    warnings.warn(text, SlowWarning, stacklevel=2)


def choose(op: str, family: str, device: str | torch.device, force: str | None = None) -> tuple[Kernel, str]:
    """The kernel for an operation, and why it.

    op      an operation of `TABLE`
    family  id of the weight's codec
    force   name of the kernel to use; UsageError where it cannot serve, with the list of those that can
    """
    kind = device.type if isinstance(device, torch.device) else device
    serving = sorted((row for row in TABLE if row.serves(op, family, kind)), key=lambda row: -row.tier)
    if not serving:
        raise UsageError(
            "no kernel", where=f"{op} of {family} on {kind}", expected=sorted({row.op for row in TABLE})
        )
    if force is not None:
        return _forced(force, serving, f"{op} of {family} on {kind}"), f"{force}: asked for"
    wanted = os.environ.get(VARIABLE)
    if wanted:
        _known(wanted)
        if any(row.name == wanted for row in serving):
            return _forced(wanted, serving, VARIABLE), f"{wanted}: {VARIABLE}"
    return _best(serving, f"; {VARIABLE}={wanted} does not serve here" if wanted else "")


def _best(serving: list[Kernel], note: str) -> tuple[Kernel, str]:
    passed: list[str] = []
    for row in serving:
        missing = row.missing()
        if missing is None:
            why = "; ".join(passed) if passed else ("the only one" if len(serving) == 1 else "highest tier")
            return row, f"{row.name}: {why}{note}"
        passed.append(f"no {row.name} ({missing})")
    raise UsageError("no kernel can run here", got="; ".join(passed))


def _forced(name: str, serving: list[Kernel], where: str) -> Kernel:
    for row in serving:
        if row.name == name:
            missing = row.missing()
            if missing is not None:
                raise UsageError("this kernel cannot run here", where=where, got=f"{name} ({missing})")
            return row
    raise UsageError("no such kernel", where=where, got=name, expected=", ".join(row.name for row in serving))


def _known(name: str) -> None:
    names = sorted({row.name for row in TABLE})
    if name not in names:
        raise UsageError("no such kernel", where=VARIABLE, got=name, expected=", ".join(names))


@dataclass(frozen=True)
class Choice:
    op: str
    family: str
    device: str
    kernel: str
    reason: str


def describe(families: tuple[str, ...], devices: tuple[str, ...] | None = None) -> tuple[Choice, ...]:
    """What `choose` answers for every operation, for people to read. devices None: those of this machine."""
    if devices is None:
        devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    rows = []
    for op in dict.fromkeys(row.op for row in TABLE):
        for family in families:
            for device in devices:
                kernel, reason = choose(op, family, device)
                rows.append(Choice(op, family, device, kernel.name, reason.removeprefix(f"{kernel.name}: ")))
    return tuple(rows)
