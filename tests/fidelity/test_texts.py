"""Text files, windows, and the openings that the package brings."""

from __future__ import annotations

import pytest
import torch

from higgsx.errors import ModelError, StorageError, TextError
from higgsx.fidelity.openings import LONGEST_OPENING, continue_openings, load_openings
from higgsx.fidelity.texts import cut, read_text, text_windows
from higgsx.tasks import Encoder

BYTES = Encoder(lambda text: list(text.encode()), vocabulary=257)
WITH_FIRST = Encoder(lambda text: list(text.encode()), vocabulary=257, first=256)


@pytest.fixture
def write(tmp_path):
    def writer(content):
        path = tmp_path / "text.txt"
        path.write_bytes(content)
        return path

    return writer


def test_windows_are_the_text_in_order(write):
    path = write(bytes(range(32, 126)))
    windows = text_windows(path, BYTES, 30)
    assert [tuple(window.shape) for window in windows] == [(1, 30)] * 3
    assert torch.cat(windows, 1)[0].tolist() == list(range(32, 122))
    assert windows[0].dtype == torch.int64
    assert len(text_windows(path, BYTES, 30, limit=2)) == 2


@pytest.mark.parametrize("length", [3_000, 50_000])
def test_spread_windows_come_from_the_whole_text_and_never_overlap(write, length):
    path = write("".join(chr(256 + number) for number in range(length)).encode())
    characters = Encoder(lambda text: list(map(ord, text)), vocabulary=1 << 17)
    windows = [window[0] - 256 for window in text_windows(path, characters, 30, limit=10, spread=True)]
    assert all(window.tolist() == list(range(int(window[0]), int(window[0]) + 30)) for window in windows)
    starts = torch.stack([window[0] for window in windows])
    assert starts[0] == 0 and ((starts.diff() - length / 10).abs() <= 30).all()


def test_spread_windows_of_a_short_text_are_all_of_it(write):
    path = write(bytes(range(32, 126)))
    for limit in (3, 4, 100):
        assert len(text_windows(path, BYTES, 30, limit=limit, spread=True)) == 3
    with pytest.raises(TextError, match="too short"):
        text_windows(path, BYTES, 95, limit=4, spread=True)


def test_stretches_with_too_few_tokens_are_left_out(write):
    path = write(b" " * 15_000 + b"words and more words. " * 1_500)
    lines = Encoder(lambda text: list(text.strip().encode()), vocabulary=256)
    windows = text_windows(path, lines, 30, limit=10, spread=True)
    assert 5 <= len(windows) <= 8
    with pytest.raises(TextError, match="too short"):
        text_windows(write(b"." + b" " * 50_000), lines, 30, limit=10, spread=True)


def test_the_beginning_token_stands_in_front_and_counts(write):
    windows = text_windows(write(b"abcdefgh"), WITH_FIRST, 5)
    assert [window[0].tolist() for window in windows] == [[256, *b"abcd"], [256, *b"efgh"]]


def test_a_text_of_exactly_one_window_is_enough():
    assert len(cut(list(range(10)), BYTES, 10)) == 1
    assert len(cut(list(range(9)), WITH_FIRST, 10)) == 1


@pytest.mark.parametrize(("encoder", "missing"), [(BYTES, 4), (WITH_FIRST, 3)])
def test_a_short_text_says_how_much_is_missing(write, encoder, missing):
    with pytest.raises(TextError, match=rf"text\.txt: .*too short, got 6 tokens.*\({missing} are missing\)"):
        text_windows(write(b"abcdef"), encoder, 10)


@pytest.mark.parametrize("content", [b"", b" \n\t ", b"\xef\xbb\xbf\n"])
def test_an_empty_text_is_refused(write, content):
    with pytest.raises(TextError, match="empty"):
        read_text(write(content))


def test_what_is_not_utf8_is_refused_with_its_place(write):
    with pytest.raises(TextError, match=r"not UTF-8 text at byte 3, got byte 0xff"):
        read_text(write(b"abc\xff\xfe"))
    with pytest.raises(TextError, match="not UTF-8"):
        read_text(write("привет".encode()[:-1]))


def test_marks_and_line_ends(write):
    assert read_text(write(b"\xef\xbb\xbfa\r\nb")) == "a\r\nb"


def test_a_long_text_is_cut_between_characters(write):
    path = write("привет".encode())
    assert read_text(path, most_bytes=5) == "пр"
    assert read_text(path, most_bytes=12) == "привет"


def test_an_absent_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "absent.txt", tmp_path):
        with pytest.raises(StorageError):
            read_text(path)


@pytest.mark.parametrize("token", [257, -1, 10**6])
def test_a_foreign_tokenizer_is_refused(write, token):
    foreign = Encoder(lambda text: [1, 2, token, 3], vocabulary=257)
    with pytest.raises(TextError, match=f"got {token}, expected 0 to 256"):
        text_windows(write(b"words"), foreign, 2)


def test_windows_of_one_token_are_refused():
    for length, encoder in ((1, BYTES), (1, WITH_FIRST), (0, BYTES)):
        with pytest.raises(TextError, match="window is too short"):
            cut([1, 2, 3], encoder, length)


def test_the_openings_that_the_package_brings():
    openings = load_openings()
    assert set(openings) == {"English", "Russian", "code"}
    texts = [text for members in openings.values() for text in members]
    assert 24 <= len(texts) <= 36 and len(set(texts)) == len(texts)
    assert all(60 < len(text) < 260 for text in texts)
    for text in openings["Russian"]:
        letters = [letter for letter in text if letter.isalpha()]
        assert all("а" <= letter.lower() <= "я" or letter in "ёЁ" for letter in letters)


class Writer:
    """Continues with tokens drawn by its own generator, as an integration does with a model."""

    def __init__(self, vocabulary=257):
        self.vocabulary, self.calls = vocabulary, []

    def __call__(self, ids, count, seed):
        self.calls.append((ids.clone(), count, seed))
        generator = torch.Generator().manual_seed(seed)
        more = torch.randint(0, self.vocabulary, (len(ids), count), generator=generator)
        return torch.cat([ids, more], 1)


@pytest.mark.parametrize(("encoder", "front"), [(BYTES, []), (WITH_FIRST, [256])])
def test_openings_are_continued_in_one_batch(encoder, front):
    writer = Writer()
    windows = continue_openings(writer, encoder, length=60, seed=7)
    (batch, count, seed) = writer.calls[0]
    assert len(writer.calls) == 1 and seed == 7
    assert batch.shape[1] == LONGEST_OPENING + len(front) and count == 60 - batch.shape[1]
    openings = load_openings()
    assert {name: len(members) for name, members in windows.items()} == {
        name: len(members) for name, members in openings.items()
    }
    for name, members in windows.items():
        for window, text in zip(members, openings[name], strict=True):
            assert window.shape == (1, 60)
            start = front + list(text.encode())[:LONGEST_OPENING]
            assert window[0, : len(start)].tolist() == start


def test_the_same_seed_gives_the_same_text():
    first, again, other = (continue_openings(Writer(), BYTES, length=50, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for name in first for a, b in zip(first[name], again[name], strict=True))
    assert not torch.equal(first["code"][0], other["code"][0])


def test_openings_are_cut_to_the_shortest_and_unspeakable_ones_left_out():
    openings = {"a": ["abcdefgh", "abcdef"], "b": ["ab"]}
    windows = continue_openings(Writer(), BYTES, openings, length=12)
    assert list(windows) == ["a"]
    assert [window[0, :6].tolist() for window in windows["a"]] == [list(b"abcdef")] * 2
    with pytest.raises(TextError, match="none of the openings"):
        continue_openings(Writer(), BYTES, {"b": ["ab"]}, length=12)


def test_windows_that_leave_no_room_are_refused():
    with pytest.raises(TextError, match="too short to continue"):
        continue_openings(Writer(), BYTES, length=LONGEST_OPENING)


def test_a_generator_that_breaks_its_contract_is_noticed():
    with pytest.raises(ModelError, match="something else"):
        continue_openings(lambda ids, count, seed: ids, BYTES, length=60)
    with pytest.raises(ModelError, match="something else"):
        continue_openings(lambda ids, count, seed: torch.zeros(len(ids), 60).long(), BYTES, length=60)
    with pytest.raises(ModelError, match="does not have"):
        continue_openings(Writer(10**6), BYTES, length=60)
