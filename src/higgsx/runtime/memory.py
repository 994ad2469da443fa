"""What a model needs, added up before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

from higgsx import io
from higgsx.errors import MemoryBudgetError
from higgsx.units import format_bytes


@dataclass(frozen=True)
class Memory:
    """Bytes: weights are mapped from the file, the cache holds keys and values of all sequences."""

    weights: int
    cache: int
    scratch: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.scratch

    def __str__(self) -> str:
        parts = f"weights {format_bytes(self.weights)}, cache {format_bytes(self.cache)}, "
        return f"{format_bytes(self.total)}: {parts}scratch {format_bytes(self.scratch)}"

    def to_json(self) -> dict[str, int]:
        return {"weights": self.weights, "cache": self.cache, "scratch": self.scratch}

    def require(self, free: int | None = None) -> None:
        """MemoryBudgetError where it does not fit the memory that is free (None: asked from the system)."""
        free = free_memory() if free is None else free
        if self.total > free:
            raise MemoryBudgetError(
                "the model does not fit the free memory",
                got=str(self),
                expected=f"at most {format_bytes(free)}",
                remedy="a smaller --context needs a smaller cache",
            )


def free_memory() -> int:
    """Bytes that can be used without swapping; pages of files count, they can be read again."""
    found = _meminfo()
    if found is None:
        import psutil

        found = int(psutil.virtual_memory().available)
    limit, used = _group("memory.max"), _group("memory.current")
    cached = _group_cached()
    return found if limit is None or used is None else min(found, max(0, limit - used + cached))


def _meminfo() -> int | None:
    for line in io.system_text("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if name == "MemAvailable" and words and words[0].isdecimal():
            return int(words[0]) * 1024
    return None


def _group(name: str) -> int | None:
    text = io.system_text(f"/sys/fs/cgroup/{name}").strip()
    return int(text) if text.isdecimal() else None


def _group_cached() -> int:
    for line in io.system_text("/sys/fs/cgroup/memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == "file" and value.isdecimal():
            return int(value)
    return 0
