"""The Hadamard transform: orthogonal, its own order of additions, the same for slices."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from blake3 import blake3

from higgsx.errors import FormatError
from higgsx.transforms import channels
from higgsx.transforms.channels import ALPHABET
from higgsx.transforms.hadamard import Hadamard, signs


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def by_hand(x: list[torch.Tensor]) -> list[torch.Tensor]:
    """One block, the additions in the order that the format fixes: neighbours first."""
    stride = 1
    while stride < len(x):
        for begin in range(0, len(x), 2 * stride):
            for low in range(begin, begin + stride):
                x[low], x[low + stride] = x[low] + x[low + stride], x[low] - x[low + stride]
        stride *= 2
    return x


@pytest.mark.parametrize(
    ("width", "inputs", "segment"), [(128, 300, 0), (2, 7, 0), (64, 192, 96), (1024, 1024, 0), (32, 31, 0)]
)
@pytest.mark.parametrize("rows", [1, 17, 700])
def test_both_ways_bit_by_bit(width: int, inputs: int, segment: int, rows: int) -> None:
    mix = Hadamard(width, "a.b.weight", begin=5, segment=segment)
    x = normal(inputs, rows)
    encoded = mix.encode(x.clone())
    decoded = mix.decode(x.t().clone(memory_format=torch.contiguous_format)).t()
    norm = torch.tensor(width**-0.5)
    row = segment or inputs
    mixed = torch.zeros(inputs, dtype=torch.bool)
    for first in range(0, inputs, row):
        for begin in range(first, first + row - width + 1, width):
            sign = torch.from_numpy(signs("a.b.weight", 5 + begin, width))[:, None]
            block = slice(begin, begin + width)
            mixed[block] = True
            assert torch.equal(encoded[block], torch.stack(by_hand(list(x[block] * sign))) * norm)
            assert torch.equal(decoded[block], torch.stack(by_hand(list(x[block]))) * norm * sign)
    assert torch.equal(encoded[~mixed], x[~mixed]) and torch.equal(decoded[~mixed], x[~mixed])
    assert int((~mixed).sum()) == inputs // row * (row % width)


def test_decoding_undoes_encoding() -> None:
    x = normal(384, 40)
    mix = Hadamard(128, "space")
    back = mix.decode(mix.encode(x.clone()).t().contiguous()).t()
    assert (back - x).abs().max() < 2e-6
    assert abs(float(mix.encode(x.clone()).square().sum() / x.square().sum()) - 1) < 1e-5


def test_channel_scales_by_hand() -> None:
    letters = "".join(ALPHABET[(7 * place) % 64] for place in range(70))
    mix = Hadamard(32, "a", scales=letters)
    x = normal(70, 9)
    factor = torch.tensor([2.0 ** ((ALPHABET.index(letter) - 32) / 4) for letter in letters])[:, None]
    sign = torch.ones(70, 1)
    sign[:64, 0] = torch.from_numpy(signs("a", 0, 64))
    assert torch.equal(mix.encode(x.clone()), Hadamard(32, "a").encode(x * factor))
    decoded = mix.decode(x.t().contiguous()).t()
    norm = torch.tensor(32**-0.5)
    blocks = [torch.stack(by_hand(list(x[begin : begin + 32]))) for begin in (0, 32)]
    by_rule = torch.cat([*(block * 1.0 for block in blocks), x[64:]])
    inverse = 1 / factor.double()
    inverse = inverse.float()
    by_rule[:64] *= norm * sign[:64] * inverse[:64]
    by_rule[64:] *= inverse[64:]
    assert torch.equal(decoded, by_rule)
    assert torch.equal(torch.from_numpy(mix.multiplier(70)), (sign * inverse)[:, 0])


def test_scaling_keeps_products() -> None:
    """`(W S D H)(H D S⁻¹ x) = W x`, also for inputs that are left over."""
    letters = "".join(ALPHABET[20 + place % 24] for place in range(100))
    mix = Hadamard(32, "a", scales=letters)
    w, x = normal(100, 7), normal(100, 5)
    stored = mix.encode(w.clone())
    prepared = Hadamard(32, "a").encode(x / torch.from_numpy(channels.scales(letters))[:, None])
    assert torch.allclose(stored.t() @ prepared, w.t() @ x, atol=1e-4)
    assert torch.allclose(mix.decode(stored.t().contiguous()).t(), w, atol=1e-5)
    assert mix.largest(w.t()) == float((w.abs().amax(1) * torch.from_numpy(channels.scales(letters))).max())


def test_scales_are_rounded_to_quarter_octaves_and_bounded() -> None:
    assert channels.to_text(np.array([-100, -32, 0, 1, 31, 100])) == "AAgh__"
    assert channels.scales("ghk").tolist() == [1.0, np.float32(2**0.25), 2.0]
    assert channels.reciprocals("ghk").tolist() == [1.0, np.float32(2**-0.25), 0.5]


def test_in_place_and_any_leading_dimensions() -> None:
    x = normal(2, 3, 130)
    before = x.clone()
    mix = Hadamard(128, "space")
    assert mix.decode(x) is x
    assert torch.equal(x[1, 2], mix.decode(before[1, 2].clone()))


def test_a_slice_needs_only_its_offset() -> None:
    x = normal(512, 3)
    whole = Hadamard(128, "space").encode(x.clone())
    part = Hadamard(128, "space", begin=256).encode(x[256:].clone())
    assert torch.equal(part, whole[256:])


def test_threads_and_pieces_do_not_change_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(640, 130)
    mix = Hadamard(64, "space")
    first = mix.encode(x.clone()), mix.decode(x.t().contiguous())
    threads = torch.get_num_threads()
    try:
        for count, piece in ((2, 64), (3, 1000)):
            torch.set_num_threads(count)
            monkeypatch.setattr("higgsx.transforms.hadamard._PIECE", piece)
            assert torch.equal(first[0], mix.encode(x.clone()))
            assert torch.equal(first[1], mix.decode(x.t().contiguous()))
    finally:
        torch.set_num_threads(threads)


def test_signs_are_the_counter_function() -> None:
    def one(space: str, index: int) -> float:
        seed = int.from_bytes(blake3(space.encode()).digest(length=8), "little")
        z = (seed + (index + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return -1.0 if (z ^ z >> 31) >> 63 else 1.0

    for space, begin in (("a", 0), ("model.layers.3.weight", 1000), ("ü", (1 << 47) + 3)):
        assert signs(space, begin, 64).tolist() == [one(space, begin + index) for index in range(64)]
    assert abs(float(signs("a", 0, 4096).sum())) < 4 * 64


@pytest.mark.parametrize(
    ("inputs", "segment", "width"),
    [
        (1536, 0, 128),
        (896, 0, 128),
        (64, 0, 64),
        (100, 0, 32),
        (160, 0, 32),
        (192, 0, 64),
        (31, 0, None),
        (288, 96, 32),
    ],
)
def test_default_width(inputs: int, segment: int, width: int | None) -> None:
    mix = Hadamard.default("s", inputs, segment)
    assert (mix.width if mix else None) == width


def test_json() -> None:
    mix = Hadamard(32, "ü", 7, 96)
    assert Hadamard.from_json(json.loads(json.dumps(mix.to_json()))) == mix
    scaled = Hadamard(32, "x", scales="abc")
    assert Hadamard.from_json(json.loads(json.dumps(scaled.to_json()))) == scaled != Hadamard(32, "x")
    assert scaled.misfit(3) is None and scaled.misfit(4) == "3 channel scales for 4 inputs"
    assert "scales" not in mix.to_json()
    good = mix.to_json()
    for key, wrong in (
        ("scales", ""), ("scales", "a b"), ("scales", "ä"), ("scales", 3), ("scales", None), ("scales", []),
        ("width", 3), ("width", 2048), ("width", 1), ("width", 64.0), ("width", True), ("width", None),
        ("space", ""), ("space", 3), ("begin", -1), ("begin", 1 << 48), ("begin", "0"), ("segment", -1),
        ("kind", "fourier"),
    ):  # fmt: skip
        with pytest.raises(FormatError) as caught:
            Hadamard.from_json({**good, key: wrong})
        assert caught.value.code == "CODEC"
    with pytest.raises(FormatError):
        Hadamard.from_json({**good, "more": 1})
    with pytest.raises(FormatError):
        Hadamard.from_json({key: value for key, value in good.items() if key != "begin"})
