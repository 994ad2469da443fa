"""The decode operation that `torch.compile` and `torch.export` see instead of a virtual weight.

Arguments of an operation are tensors and plain values, so the descriptor travels as its JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache

import torch

from higgsx.descriptor import Descriptor
from higgsx.kernels.ops import decode
from higgsx.kernels.packed import Packed


def text_of(descriptor: Descriptor) -> str:
    """The descriptor as one argument of `torch.ops.higgsx.decode`; makes sure that the operation exists."""
    _library()
    return json.dumps(descriptor.to_json(), sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=4096)
def _descriptor(text: str) -> Descriptor:
    return Descriptor.from_json(json.loads(text))


def _named(arrays: list[torch.Tensor], descriptor: Descriptor) -> Mapping[str, torch.Tensor]:
    return dict(zip(sorted(descriptor.arrays()), arrays, strict=True))


def _decode(arrays: list[torch.Tensor], descriptor: str, dtype: torch.dtype) -> torch.Tensor:
    what = _descriptor(descriptor)
    return decode(Packed(what, _named(arrays, what), dtype))


def _decode_fake(arrays: list[torch.Tensor], descriptor: str, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(_descriptor(descriptor).shape, dtype=dtype, device=arrays[0].device)


@lru_cache(maxsize=1)
def _library() -> torch.library.Library:
    """Registered when the first weight is packed: importing starts nothing."""
    library = torch.library.Library("higgsx", "FRAGMENT")
    library.define("decode(Tensor[] arrays, str descriptor, ScalarType dtype) -> Tensor")
    library.impl("decode", _decode, "CompositeExplicitAutograd")
    torch.library.register_fake("higgsx::decode", _decode_fake, lib=library)
    return library
