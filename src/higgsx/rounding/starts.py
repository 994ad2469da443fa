"""Where a scale search begins: `scale · largest level ≈ a · absmax + b · rms` of a block.

Least squares over Gaussian blocks of 32, 64, 128 and 1024 weights against the best scale of an exhaustive
search (`benchmarks/distortion.py --starts`). They only centre the search: other weights cost a little error,
never a wrong result.
"""

from __future__ import annotations

from higgsx.codecs.panels import PanelCodec

WIDTHS = (32, 64, 128)

STARTS: dict[str, tuple[tuple[float, float], ...]] = {
    "gauss4": ((0.246, 0.917), (0.117, 1.199), (0.054, 1.351), (0.006, 1.491)),
    "gauss8": ((0.842, 0.083), (0.690, 0.339), (0.439, 0.901), (0.131, 1.705)),
    "gauss16": ((0.962, 0.045), (0.942, 0.044), (0.872, 0.153), (0.333, 1.548)),
    "gauss32": ((0.752, 0.761), (0.738, 0.793), (0.753, 0.734), (0.759, 0.598)),
    "nf4": ((0.786, 0.545), (0.836, 0.381), (0.865, 0.238), (0.383, 1.531)),
    "iq4": ((1.012, 0.073), (0.953, 0.145), (0.856, 0.333), (0.288, 1.851)),
    "int2": ((0.198, 1.014), (0.092, 1.245), (0.051, 1.345), (0.012, 1.451)),
    "int3": ((0.703, 0.335), (0.495, 0.737), (0.291, 1.210), (0.056, 1.867)),
    "int4": ((0.945, 0.046), (0.860, 0.161), (0.714, 0.452), (0.174, 1.897)),
    "int5": ((1.010, 0.000), (0.973, 0.036), (0.935, 0.078), (0.396, 1.538)),
    "int6": ((1.037, 0.000), (1.015, 0.000), (0.984, 0.041), (0.819, 0.409)),
    "int8": ((1.041, 0.000), (1.028, 0.000), (1.018, 0.000), (0.996, 0.007)),
}
_OTHER = ((1.0, 0.0),) * 4


def start(codec: PanelCodec, width: int) -> tuple[float, float]:
    """a and b for blocks of `width` weights."""
    index = sum(width > known for known in WIDTHS)
    return STARTS.get(codec.label.partition(".")[0], _OTHER)[index]
