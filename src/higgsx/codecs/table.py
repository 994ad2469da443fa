"""The codecs there are. A new one is one file and one line here; everything else derives from this."""

from __future__ import annotations

from collections.abc import Mapping

from higgsx.codecs.base import Codec
from higgsx.codecs.codebook import Codebook
from higgsx.codecs.dense import Dense
from higgsx.codecs.uniform import Uniform
from higgsx.errors import FormatError

CODECS: tuple[type[Codec], ...] = (
    Dense,
    Uniform,
    Codebook,
)

BY_ID: dict[str, type[Codec]] = {codec.id: codec for codec in CODECS}


def codec_from(codec_id: str, params: Mapping[str, object]) -> Codec:
    """The codec that a file names, its parameters checked; FormatError (CODEC) where there is none."""
    if codec_id not in BY_ID:
        raise FormatError("unknown codec", got=repr(codec_id), expected=sorted(BY_ID), code="CODEC")
    return BY_ID[codec_id].from_params(params)
