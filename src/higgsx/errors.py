"""Every error that this package raises on purpose.

    HiggsxError                 exit 1
     ├─ UsageError              exit 2   wrong or contradictory arguments
     ├─ BudgetError                      no plan fits; names the minimum
     ├─ SourceError                      a checkpoint that is absent, incomplete or of a refused kind
     ├─ DataError                        weights that cannot be encoded (NaN, Inf)
     ├─ ModelError                       a model that cannot be built, or does not fit its weights
     ├─ TextError                        a text, sound or other material, or a tokenizer, that cannot be used
     ├─ FormatError                      a file that is no valid .hgs (`code` says which rule)
     │   └─ IntegrityError               right structure, damaged content
     ├─ StorageError                     the disk: no space, exists already, not writable
     ├─ MemoryBudgetError                what was asked for does not fit the free RAM
     └─ DamageError                      the gate refused a result

and one warning: SlowWarning, packed weights are served without native kernels.

One line each: what, where, what was found, what was expected, what to do.
"""

from __future__ import annotations


class HiggsxError(Exception):
    """Base class. `code` is a short stable word for programs, the message is for people."""

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        expected: object = None,
        remedy: str | None = None,
        code: str | None = None,
    ) -> None:
        self.what, self.where, self.got, self.expected = what, where, got, expected
        self.remedy, self.code = remedy, code or type(self).__name__.removesuffix("Error").upper()
        parts = [what if where is None else f"{_printable(where)}: {what}"]
        if got is not None:
            parts.append(f"got {_printable(got)}")
        if expected is not None:
            parts.append(f"expected {_printable(expected)}")
        message = ", ".join(parts)
        super().__init__(message if remedy is None else f"{message}; {remedy}")


def _printable(value: object) -> str:
    """Text from a file may hold control characters; a message must stay one harmless line."""
    text = str(value)
    return text if text.isprintable() else ascii(text)


class UsageError(HiggsxError):
    exit_code = 2


class BudgetError(HiggsxError):
    pass


class SourceError(HiggsxError):
    pass


class DataError(HiggsxError):
    pass


class ModelError(HiggsxError):
    pass


class TextError(HiggsxError):
    pass


class FormatError(HiggsxError):
    pass


class IntegrityError(FormatError):
    pass


class StorageError(HiggsxError):
    pass


class MemoryBudgetError(HiggsxError):
    pass


class DamageError(HiggsxError):
    pass


class SlowWarning(UserWarning):
    """Packed weights are served without native kernels."""
