"""Tables of the codebook codec: int8 constants, normative, printed in docs/format.md.

`gauss*`  the levels with the least squared error on a Gaussian (Lloyd 1957, Max 1960), scaled so that
          rounding to int8 costs least (at most 0.6 %).
`nf4`     the 4-bit NormalFloat levels (Dettmers et al. 2023, QLoRA) times 127.
`iq4`     the non-linear 4-bit levels that llama.cpp's IQ4_NL and IQ4_XS use (MIT licence), so that
          such files come in exactly.
"""

from __future__ import annotations


def _mirrored(*positive: int) -> tuple[int, ...]:
    return (*(-level for level in reversed(positive)), *positive)


TABLES: dict[str, tuple[int, ...]] = {
    "gauss4": _mirrored(36, 120),
    "gauss8": _mirrored(13, 40, 71, 114),
    "gauss16": _mirrored(5, 15, 25, 36, 48, 62, 79, 104),
    "gauss32": _mirrored(3, 8, 13, 18, 23, 28, 34, 40, 46, 53, 60, 68, 77, 88, 102, 124),
    "nf4": (-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127),
    "iq4": (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113),
}
