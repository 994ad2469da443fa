"""Windows of tokens for a language model: of a text, or of openings that the model itself continues."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor, nn

from higgsx.errors import UsageError
from higgsx.fidelity.openings import Generate, continue_openings, load_openings
from higgsx.fidelity.texts import cut, encode, text_windows
from higgsx.tasks import Batches, Encoder, Wanted

OPENINGS_WINDOW = {"check": 64, "calibration": 256}
"""Tokens of a window of the model's own continuations, where nothing else is asked for."""
TEXT_WINDOW = 256


def language_batches(
    model: Callable[[], nn.Module],
    sampler: Callable[[nn.Module], Generate],
    encoder: Encoder,
    positions: int | None,
    wanted: Wanted,
) -> Batches:
    """See `higgsx.pipeline.check.Checkable.batches`. TextError for a text that is too short or no text."""
    path, window = wanted.path, wanted.window
    asked = window or (TEXT_WINDOW if path is not None else OPENINGS_WINDOW[wanted.part])
    if window is not None and positions is not None and window > positions:
        raise UsageError("window is longer than the model can take", got=window, expected=positions)
    length = asked if positions is None else min(asked, positions)
    most = max(1, wanted.most_tokens // length)
    if path is not None:
        part, learned = wanted.part if wanted.shared else None, wanted.part == "calibration"
        found = text_windows(path, encoder, length, most, part, spread=learned)
        front = "with" if encoder.first is not None else "without"
        return Batches({"text": found}, f"windows of {length} tokens, {front} a beginning-of-text token")
    for members in load_openings().values():
        for opening in members:
            encode(opening, encoder, "tokenizer")
    try:
        drawn = _continued(sampler(model()), encoder, length, most, wanted)
    except RuntimeError:  # nothing can be drawn from NaN; measuring will find it, and the gate say it
        texts = [text for members in load_openings().values() for text in members]
        ids = [token for text in texts for token in encode(text, encoder, "openings")]
        return Batches({"openings": cut(ids, encoder, length, most)}, "openings of this package")
    return Batches(drawn, "openings of this package, continued by the original")


def _continued(
    generate: Generate, encoder: Encoder, length: int, most: int, wanted: Wanted
) -> Mapping[str, Sequence[Tensor]]:
    """At most `most` windows, spread over the domains. To measure, every opening is used once."""
    openings = load_openings()
    found: dict[str, list[Tensor]] = {}
    left, seed = most, wanted.seed
    while left > 0:
        used = _spread(openings, left)
        drawn = continue_openings(generate, encoder, used, length=length, seed=seed)
        for domain, windows in drawn.items():
            found.setdefault(domain, []).extend(windows)
        left -= sum(map(len, drawn.values()))
        seed += 1
        if wanted.part == "check":
            break
    return found


def _spread(openings: Mapping[str, Sequence[str]], most: int) -> dict[str, list[str]]:
    """At most `most` openings, one of each domain in turn."""
    chosen = set(_turns(openings)[:most])
    return {
        domain: [text for place, text in enumerate(members) if (domain, place) in chosen]
        for domain, members in openings.items()
    }


def _turns(openings: Mapping[str, Sequence[str]]) -> list[tuple[str, int]]:
    def pairs() -> Iterator[tuple[str, int]]:
        for place in range(max(map(len, openings.values()))):
            for domain, members in openings.items():
                if place < len(members):
                    yield domain, place

    return list(pairs())
