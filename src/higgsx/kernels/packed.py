"""One compressed weight in memory: its description, its bytes, and the dtype it is used in."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache

import torch

from higgsx.codecs.base import Arrays
from higgsx.descriptor import Descriptor


@dataclass(frozen=True)
class Packed:
    """descriptor  what the bytes mean
    arrays      the stored arrays by suffix, all on one device
    dtype       the run dtype: what a dense weight in this place would have
    """

    descriptor: Descriptor
    arrays: Arrays
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.descriptor.shape)

    @property
    def device(self) -> torch.device:
        return next(iter(self.arrays.values())).device

    @property
    def family(self) -> str:
        return self.descriptor.codec.id

    @property
    def inputs_first(self) -> bool:
        """Whether the original is laid out `[inputs, outputs]`."""
        return self.descriptor.axes == "io"

    def expert(self, index: int) -> Packed:
        """One matrix of a stack; its bytes are a slice of the stack's. IndexError where there is none."""
        index = range(self.descriptor.shape[0])[index]
        arrays = {suffix: array[index] for suffix, array in self.arrays.items()}
        return Packed(_one_expert(self.descriptor), arrays, self.dtype)


@lru_cache(maxsize=4096)
def _one_expert(stack: Descriptor) -> Descriptor:
    return dataclasses.replace(stack, shape=stack.shape[1:], axes=stack.axes.removeprefix("e"))
