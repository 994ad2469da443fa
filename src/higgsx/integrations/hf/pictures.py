"""Pictures for models that tell what is on them: of a user's, or random patches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from higgsx.errors import ModelError, TextError
from higgsx.fidelity.material import share_of
from higgsx.integrations.hf.drawing import drawn
from higgsx.tasks import Batches, Example, Wanted
from higgsx.tasks.example import placed

PICTURES_AT_ONCE = 4
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm")
_RANDOM = {"check": 32, "calibration": 128}


def picture_batches(
    shape: tuple[int, int, int],
    processor: Callable[[], Any],
    names: Mapping[str, int],
    model: Callable[[], nn.Module],
    wanted: Wanted,
) -> Batches:
    """Pictures with labels: the folder that a picture lies in where it has the name of a class, else drawn
    from the model.

    shape      channels, height, width that the model sees
    processor  gives the image processor of the model's folder, or None
    names      class name → number
    TextError: no pictures, a picture that cannot be read, no library to read them with.
    """
    if wanted.path is None:
        count = max(1, min(_RANDOM[wanted.part], wanted.most_tokens))
        pixels = [patches(wanted.seed + number, shape) for number in range(count)]
        examples = [_drawn(model(), some, wanted.seed + place) for place, some in enumerate(_grouped(pixels))]
        return Batches({"patches": examples}, "random patches, labels drawn from the original")
    found = share_of(_files(wanted.path), wanted.part, wanted.shared, wanted.path)[: wanted.most_tokens]
    read = _reader(processor())
    pixels = [read(file) for file in found]
    known = {name.lower(): number for name, number in names.items()}
    labels = [known.get(file.parent.name.lower()) for file in found]
    if None not in labels:
        words = {number: name for name, number in names.items()}
        told = [number for number in labels if number is not None]
        groups = [told[begin : begin + PICTURES_AT_ONCE] for begin in range(0, len(told), PICTURES_AT_ONCE)]
        examples = [
            Example({"pixel_values": some}, torch.tensor(group), tuple((words[one],) for one in group))
            for some, group in zip(_grouped(pixels), groups, strict=True)
        ]
        return Batches({"pictures": examples}, "pictures of the user's, in folders by class")
    examples = [_drawn(model(), some, place) for place, some in enumerate(_grouped(pixels))]
    return Batches({"pictures": examples}, "pictures of the user's, labels drawn from the original")


def patches(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """A random picture [channels, height, width], mean about 0 and variance about 1: colours in patches of
    many sizes, as pictures have them, and a little grain."""
    draw = torch.Generator().manual_seed(seed)
    channels, height, width = shape
    found = torch.zeros(shape)
    size = 1
    while size < min(height, width):
        coarse = torch.randn(1, channels, min(size + 1, height), min(size + 1, width), generator=draw)
        found += nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)[0]
        size *= 2
    found += 0.1 * torch.randn(shape, generator=draw)
    return (found - found.mean()) / found.std()


def _grouped(pixels: list[Tensor]) -> list[Tensor]:
    return [
        torch.stack(pixels[begin : begin + PICTURES_AT_ONCE])
        for begin in range(0, len(pixels), PICTURES_AT_ONCE)
    ]


def _drawn(model: Any, pixels: Tensor, seed: int) -> Example:
    inputs = {"pixel_values": pixels}
    with torch.inference_mode():
        scores = model(**placed(inputs, model)).logits
    finite = bool(scores.isfinite().all())
    return Example(inputs, drawn(seed)(scores) if finite else torch.zeros(len(pixels), dtype=torch.int64))


def _files(path: Path) -> list[Path]:
    """Pictures of a folder and of the folders in it, in a fixed order; or one picture."""
    if path.is_dir():
        inside = [
            *path.iterdir(),
            *(one for place in path.iterdir() if place.is_dir() for one in place.iterdir()),
        ]
        found = sorted(one for one in inside if one.suffix.lower() in _SUFFIXES)
    else:
        found = [path] if path.suffix.lower() in _SUFFIXES else []
    if not found:
        raise TextError(
            "no pictures there", where=path, expected=f"a folder with {', '.join(_SUFFIXES)} files, "
            "or one with a folder for each class",
        )  # fmt: skip
    return found


def _reader(processor: Any) -> Callable[[Path], Tensor]:
    try:
        from PIL import Image  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise TextError(
            "pictures cannot be read without Pillow",
            remedy="pip install 'higgsx[pictures]', or measure without a file",
        ) from None
    if processor is None:
        raise ModelError(
            "the model has no image processor", expected="preprocessor_config.json in its folder"
        )

    def read(path: Path) -> Tensor:
        try:
            with Image.open(path) as picture:
                made = processor(picture.convert("RGB"), return_tensors="pt")
        except (OSError, ValueError) as error:
            raise TextError("not a picture that can be read", where=path, got=error) from None
        pixels: Tensor = made["pixel_values"][0]
        return pixels

    return read
