"""How near packed weights must come to ordinary ones; see the fixture `arithmetic`."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Arithmetic:
    """How packed weights are multiplied in a test, and how near to ordinary ones that must come."""

    kernel: str

    def agree(self, ours: torch.Tensor, theirs: torch.Tensor) -> bool:
        """The reference: bit for bit. Native products in float mode: another order of sums, a few roundings
        to the run dtype apart."""
        if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
            return False
        if self.kernel == "reference":
            return torch.equal(ours, theirs)
        bound = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[ours.dtype]
        return bool((ours - theirs).double().norm() <= bound * theirs.double().norm())
