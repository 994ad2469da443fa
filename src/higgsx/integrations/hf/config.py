"""The quantization configuration that transformers passes around and writes into config.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers.utils.quantization_config import QuantizationConfigMixin

from higgsx.descriptor import Descriptor
from higgsx.errors import FormatError, UsageError

METHOD = "higgsx"
VERSION = 0
"""Of the saved form: a folder with another version is refused."""


class HiggsxConfig(QuantizationConfigMixin):
    """How to compress a model while transformers loads it, or what a compressed folder holds.

    bits    average bits of a weight; 4.25 if no budget is given
    size    bytes of the file that `higgsx.compress` would write, a number or text such as "800MB"
    policy  `free` or `hybrid`
    keep    patterns of tensor names that stay exact
    allow   codes that may be used, empty: the default palette
    method  the rounding
    gradients, calibration, calibration_tokens  as in `higgsx.compress`: learn which weights matter, from text
            that the model writes itself or from a file; neither is saved with the model
    tensors what is compressed and how: parameter name → descriptor. Written by `save_pretrained`; given by a
            person, it is followed as it is and the budget is not used
    names   whose names the tensors to load have: the `model`'s own, or those of a `checkpoint`
    modules_to_not_convert  names of modules whose weights stay exact
    Raises UsageError for contradictory or unknown options.
    """

    def __init__(
        self,
        bits: float | str | None = None,
        size: int | str | None = None,
        policy: str = "free",
        keep: Sequence[str] = (),
        allow: Sequence[str] = (),
        method: str = "rtn",
        gradients: bool = False,
        calibration: str | None = None,
        calibration_tokens: int | None = None,
        tensors: Mapping[str, Mapping[str, object]] | None = None,
        names: str = "model",
        modules_to_not_convert: Sequence[str] | None = None,
        version: int = VERSION,
        quant_method: str = METHOD,
        **unknown: object,
    ) -> None:
        from higgsx.pipeline.learn import Learning
        from higgsx.pipeline.options import Options

        if unknown:
            raise UsageError("unknown option", where="HiggsxConfig", got=", ".join(sorted(unknown)))
        if quant_method != METHOD or version != VERSION:
            raise UsageError(
                "not a configuration of this version",
                where="HiggsxConfig",
                got=f"{quant_method!r}, version {version!r}",
                expected=f"{METHOD}, version {VERSION}",
                remedy="a newer higgsx may read it",
            )
        if names not in ("model", "checkpoint"):
            raise UsageError(
                "unknown names", where="HiggsxConfig", got=repr(names), expected="model or checkpoint"
            )
        kept = [*keep, *(f"*{module}.*" for module in modules_to_not_convert or ())]
        options = Options.make(bits, size, policy, kept, list(allow), method)
        self._learning = Learning.make(gradients, calibration, calibration_tokens)
        # a word of ours where transformers has a list of its own
        self.quant_method = METHOD  # type: ignore[assignment]
        self.version = VERSION
        self.bits, self.size, self.policy, self.method = (
            options.bits,
            options.size,
            options.policy,
            options.method,
        )
        self.keep, self.allow = list(options.keep), list(options.allow)
        self.names = names
        self.tensors = {name: dict(one) for name, one in (tensors or {}).items()}

    def options(self) -> Any:
        """The same request as `higgsx.pipeline.options.Options`."""
        from higgsx.pipeline.options import Options

        return Options.make(self.bits, self.size, self.policy, self.keep, self.allow, self.method)

    def to_dict(self) -> dict[str, Any]:
        """Without what steered the plan only while it was made: a saved model has its tensors."""
        return {key: value for key, value in super().to_dict().items() if key != "_learning"}

    def learning(self) -> Any:
        """What is to be learned first, as `higgsx.pipeline.learn.Learning`."""
        return self._learning

    def descriptors(self) -> dict[str, Descriptor]:
        """`tensors`, parsed. FormatError with the name of the tensor."""
        found = {}
        for name, one in self.tensors.items():
            try:
                found[name] = Descriptor.from_json(one)
            except FormatError as error:
                raise FormatError(
                    error.what, where=name, got=error.got, expected=error.expected, code=error.code
                ) from None
        return found
