"""Products, look-ups and decoding by the native library, for tensors on the processor.

Activations may be float32, float16 or bfloat16. What the library does not read is declined with a reason and
left to the reference. How exactly products are computed says `precision`.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch

from higgsx.errors import ModelError
from higgsx.kernels import native, structs, team
from higgsx.kernels.packed import Packed
from higgsx.kernels.precision import current, mode_of
from higgsx.kernels.reference import Sizes
from higgsx.kernels.windows import output_sizes, windows_of

FAMILIES = frozenset({"uniform", "codebook"})
DTYPES = {torch.float32: structs.F32, torch.float16: structs.F16, torch.bfloat16: structs.BF16}
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_SCRATCH = 1 << 24
"""Bytes of prepared activations at a time, about: more tokens are computed in parts, with the same result."""


class _Handle:
    """A weight as the library reads it, as long as its arrays stay where they are."""

    __slots__ = (
        "address", "bits", "data", "descriptor", "inputs", "matrix", "needs", "outputs", "payload", "rows",
    )  # fmt: skip

    def __init__(self, packed: Packed, payload: torch.Tensor, rows: torch.Tensor | None) -> None:
        places = {"_hgs": (payload.data_ptr(), payload.nbytes)}
        if rows is not None:
            places["_hgsr"] = (rows.data_ptr(), rows.nbytes)
        self.matrix = native.matrix_of(packed.descriptor, places)
        self.address = native.address_of(self.matrix)
        self.bits = self.matrix.bits
        self.outputs, self.inputs = int(self.matrix.outputs), int(self.matrix.inputs)
        self.descriptor = packed.descriptor
        self.data, self.rows = payload.data_ptr(), 0 if rows is None else rows.data_ptr()
        self.needs: dict[tuple[int, int], int] = {}
        key = id(payload)
        # the payload is not kept alive; its number may be given to another tensor afterwards
        self.payload = weakref.ref(payload, lambda _: _handles.pop(key, None))


_handles: dict[int, _Handle] = {}


def _handle(packed: Packed) -> _Handle:
    arrays = packed.arrays
    payload, rows = arrays["_hgs"], arrays.get("_hgsr")
    found = _handles.get(id(payload))
    if (
        found is not None
        and found.payload() is payload
        and found.descriptor is packed.descriptor
        and found.data == payload.data_ptr()
        and found.rows == (0 if rows is None else rows.data_ptr())
    ):
        return found
    made = _Handle(packed, payload, rows)
    native.load().check(native.load().hgx_check(made.address), f"{packed.family} {packed.descriptor.shape}")
    _handles[id(payload)] = made
    return made


class _Scratch(threading.local):
    """Working memory of one thread: a call is over before its thread makes the next."""

    def __init__(self) -> None:
        self.held = torch.empty(0, dtype=torch.uint8)

    def of(self, nbytes: int) -> int:
        if nbytes > self.held.numel():
            self.held = torch.empty(nbytes, dtype=torch.uint8)
        return self.held.data_ptr()


_scratch = _Scratch()


def _declines_packed(packed: Packed) -> str | None:
    for array in packed.arrays.values():
        if not array.is_contiguous() or array.dtype != torch.uint8 or type(array) not in _PLAIN:
            return "the stored bytes do not lie in order"
    return None


def declines_tensor(x: torch.Tensor) -> str | None:
    if type(x) not in _PLAIN:
        return "a tensor of another class"
    if x.dtype not in DTYPES:
        return f"{x.dtype} activations"
    if not x.is_cpu or x.layout is not torch.strided or x.is_neg():
        return "activations elsewhere or in another layout"
    return _declines_now()


def _declines_now() -> str | None:
    """What looks at single operations of torch would not see ours."""
    if torch._C._len_torch_dispatch_stack() or torch._C._get_tracing_state() is not None:
        return "operations are being traced"
    if torch.is_autocast_enabled("cpu"):
        return "autocast"
    if torch._C._functorch.maybe_current_level() is not None or _forward_mode():
        return "a function transform"
    return None


def _forward_mode() -> bool:
    return torch.autograd.forward_ad._current_level >= 0


def declines_product(x: torch.Tensor, packed: Packed, bias: torch.Tensor | None) -> str | None:
    """Also what torch would refuse: the reference says it as torch does."""
    if bias is not None and (
        type(bias) not in _PLAIN
        or bias.dim() != 1
        or not bias.is_cpu
        or not bias.is_floating_point()
        or bias.shape[0] != packed.descriptor.matrix.outputs
    ):
        return "an unusual bias"
    if x.dim() == 0 or x.shape[-1] != packed.descriptor.matrix.inputs or len(packed.descriptor.shape) != 2:
        return "shapes do not fit"
    return declines_tensor(x) or _declines_packed(packed)


def declines_decode(packed: Packed) -> str | None:
    if packed.dtype not in DTYPES:
        return f"{packed.dtype} weights"
    return _declines_packed(packed) or _declines_now()


def declines_embedding(ids: torch.Tensor, packed: Packed) -> str | None:
    if type(ids) not in _PLAIN or not ids.is_cpu or ids.is_floating_point() or ids.dtype == torch.bool:
        return "unusual row numbers"
    return declines_decode(packed)


def declines_conv(x: torch.Tensor, packed: Packed, bias: torch.Tensor | None, *sizes: Any) -> str | None:
    dims = len(packed.descriptor.shape) - 2
    if dims not in (1, 2) or x.dim() not in (dims + 1, dims + 2) or x.numel() == 0:
        return "unusual dimensions"
    if x.shape[-1 - dims] != packed.descriptor.shape[1]:
        return "shapes do not fit"
    if bias is not None and (type(bias) not in _PLAIN or bias.shape != packed.descriptor.shape[:1]):
        return "an unusual bias"
    if output_sizes(x.shape[-dims:], packed.descriptor.shape[2:], *sizes) is None:
        return "unusual stride, padding or dilation"
    return declines_tensor(x) or _declines_packed(packed)


def linear(x: torch.Tensor, packed: Packed, bias: torch.Tensor | None) -> torch.Tensor:
    """`[.., inputs]` → `[.., outputs]`; any layout of the original."""
    handle = _handle(packed)
    inputs = handle.inputs
    out = x.new_empty((*x.shape[:-1], handle.outputs))
    stride = inputs
    if not x.is_contiguous():
        if x.dim() == 2 and x.stride(1) == 1 and x.stride(0) >= inputs:
            stride = x.stride(0)
        else:
            x = x.contiguous()
    _multiply(handle, x, stride, x.numel() // inputs, bias, out)
    return out


matmul = linear


def _multiply(
    handle: _Handle,
    x: torch.Tensor,
    stride: int,
    tokens: int,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    every: int = 1,
) -> None:
    """x: tokens of `inputs` numbers, `stride` from one to the next. out: contiguous, of x's dtype; its first
    row is written, then one of `every`."""
    if tokens == 0:
        return
    library = team.library()
    dtype = DTYPES[x.dtype]
    mode = mode_of(handle.bits, current())
    if bias is not None:
        bias = bias.detach().float().contiguous()
    at, to, size = x.data_ptr(), out.data_ptr(), x.element_size()
    step, nbytes = _portion(handle, tokens, mode, library)
    scratch = _scratch.of(nbytes)
    for begin in range(0, tokens, step):
        status = library.hgx_linear(
            handle.address,
            min(step, tokens - begin),
            at + begin * stride * size,
            dtype,
            stride,
            mode,
            None if bias is None else bias.data_ptr(),
            to + begin * every * handle.outputs * size,
            dtype,
            every * handle.outputs,
            scratch,
            nbytes,
        )
        if status:
            library.check(status, f"{handle.descriptor.codec.id} {handle.descriptor.shape}")


def _portion(handle: _Handle, tokens: int, mode: int, library: native.Native) -> tuple[int, int]:
    """Tokens computed together, and the bytes that their activations take when prepared."""
    nbytes = handle.needs.get((tokens, mode))
    if nbytes is not None:
        return tokens, nbytes
    nbytes = library.hgx_prepared_bytes(handle.inputs, tokens, mode)
    if nbytes > _SCRATCH:
        tokens = max(16, tokens * _SCRATCH // nbytes // 16 * 16)
        nbytes = library.hgx_prepared_bytes(handle.inputs, tokens, mode)
    elif tokens <= 16:
        handle.needs[tokens, mode] = nbytes
    return tokens, nbytes


def decode(packed: Packed) -> torch.Tensor:
    """The dense weight in its original shape and the run dtype: the bits of the reference."""
    shape = packed.descriptor.matrix
    library = team.library()
    stack = 1 if shape.experts is None else shape.experts
    out = torch.empty((stack, shape.outputs, shape.inputs), dtype=packed.dtype)
    for index in range(stack):
        handle = _handle(packed if shape.experts is None else packed.expert(index))
        status = library.hgx_decode(
            handle.address, 0, shape.outputs, out[index].data_ptr(), DTYPES[packed.dtype], shape.inputs
        )
        library.check(status, f"{packed.family} {packed.descriptor.shape}")
    return packed.descriptor.from_matrix(out if shape.experts is not None else out[0]).contiguous()


def embedding(ids: torch.Tensor, packed: Packed) -> torch.Tensor:
    """`[..]` row numbers → `[.., inputs]`; IndexError for a row that is not there."""
    handle = _handle(packed)
    library = team.library()
    flat = ids.detach().reshape(-1).to(torch.int64).contiguous()
    out = torch.empty((*ids.shape, handle.inputs), dtype=packed.dtype)
    if flat.numel() == 0:
        return out
    status = library.hgx_lookup(
        handle.address, flat.data_ptr(), flat.numel(), out.data_ptr(), DTYPES[packed.dtype], handle.inputs
    )
    if status == structs.BAD_INDEX:
        raise IndexError(
            f"index out of range: a table of {handle.outputs} rows was asked for "
            f"{int(flat.min())} to {int(flat.max())}"
        )
    library.check(status, f"{packed.family} {packed.descriptor.shape}")
    return out


def conv(
    x: torch.Tensor, packed: Packed, bias: torch.Tensor | None, stride: Sizes, padding: Sizes, dilation: Sizes
) -> torch.Tensor:
    """Convolution of one group over one or two dimensions: windows of the input times the matrix."""
    handle = _handle(packed)
    kernel = packed.descriptor.shape[2:]
    sizes = output_sizes(x.shape[-len(kernel) :], kernel, stride, padding, dilation)
    if sizes is None:
        raise ModelError("convolution that the library does not compute", got=f"padding {padding}")
    batched = x.dim() == len(kernel) + 2
    out = x.new_empty((x.shape[0] if batched else 1, *sizes.out, handle.outputs))
    flat = out.view(-1, handle.outputs)
    for part in windows_of(x if batched else x[None], kernel, sizes):
        _multiply(handle, part.x, part.stride, part.count, bias, flat[part.first :], part.every)
    result = out.movedim(-1, 1).contiguous()
    return result if batched else result[0]
