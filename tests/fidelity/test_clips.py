"""Sounds of a user's, and sounds from nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from higgsx.errors import StorageError, TextError
from higgsx.fidelity.clips import find_clips, read_wav
from higgsx.fidelity.sounds import voice
from task_folders import write_wav

WAVE = 0.5 * np.sin(np.arange(1600) / 7)


@pytest.mark.parametrize(("width", "exact"), [(1, 2**-7), (2, 2**-15), (3, 2**-23), (4, 2**-23)])
def test_samples_of_every_width_come_back(tmp_path, width, exact):
    found = read_wav(write_wav(tmp_path / "a.wav", WAVE, width=width), 16000)
    assert found.dtype == torch.float32 and found.shape == (1600,)
    assert np.abs(found.numpy() - WAVE).max() <= exact


def test_channels_are_averaged(tmp_path):
    both = np.stack([WAVE, np.zeros(1600)], axis=1).reshape(-1)
    found = read_wav(write_wav(tmp_path / "a.wav", both, channels=2), 16000)
    assert np.abs(found.numpy() - WAVE / 2).max() < 1e-4


@pytest.mark.parametrize(
    ("samples", "rate", "complaint"),
    [
        (WAVE, 22050, r"a\.wav: wrong sampling rate, got 22050 Hz, expected 16000 Hz.*ffmpeg .* -ar 16000"),
        (WAVE[:0], 16000, "empty or too short, got 0.000 s"),
        (WAVE[:100], 16000, "empty or too short"),
        (np.tile(WAVE, 30), 16000, "longer than the model hears at once, got 3.0 s, expected 2 s"),
        (np.zeros(1600), 16000, "silent"),
    ],
)
def test_sounds_that_cannot_be_used_are_refused(tmp_path, samples, rate, complaint):
    with pytest.raises(TextError, match=complaint):
        read_wav(write_wav(tmp_path / "a.wav", samples, rate), 16000, longest=2)


@pytest.mark.parametrize("content", [b"", b"Once upon a time", b"RIFF", b"RIFF\x10\0\0\0WAVEfmt \0\0\0\0"])
def test_text_in_place_of_sound_is_refused(tmp_path, content):
    path = tmp_path / "story.wav"
    path.write_bytes(content)
    with pytest.raises(TextError, match=r"story\.wav: not a wav file.*ffmpeg"):
        read_wav(path, 16000)


def test_transcripts_are_found_wherever_they_lie(tmp_path):
    inside = tmp_path / "clips"
    inside.mkdir()
    for name in ("b", "a", "c"):
        write_wav(inside / f"{name}.wav", WAVE)
    assert find_clips(inside) == [(inside / f"{name}.wav", None) for name in "abc"]
    (inside / "c.txt").write_text(" see \n")
    (tmp_path / "refs.tsv").write_text("file\ttext\tspeaker\nclips/a.wav\teh\tx\nclips/b.wav\tbe\ty\n")
    expected = [(inside / "a.wav", "eh"), (inside / "b.wav", "be"), (inside / "c.wav", "see")]
    assert find_clips(inside) == expected
    assert find_clips(tmp_path / "refs.tsv") == expected[:2]
    assert find_clips(inside / "b.wav") == [expected[1]]
    (inside / "metadata.jsonl").write_text('{"file_name": "a.wav", "text": "nearer"}\n')
    assert find_clips(inside)[0] == (inside / "a.wav", "nearer")


def test_missing_sounds_are_named(tmp_path):
    with pytest.raises(TextError, match="no wav files"):
        find_clips(tmp_path)
    (tmp_path / "list.tsv").write_text("gone.wav\ttext\n")
    with pytest.raises(TextError, match=r"list\.tsv: .*not there, got gone\.wav"):
        find_clips(tmp_path / "list.tsv")
    (tmp_path / "list.tsv").write_text("/nowhere/gone.wav\ttext\n")
    with pytest.raises(TextError, match=r"not there, got /nowhere/gone\.wav"):
        find_clips(tmp_path / "list.tsv")
    with pytest.raises(StorageError):
        read_wav(tmp_path / "gone.wav", 16000)


def test_a_voice_is_a_sound_with_pauses_and_is_drawn_anew_for_each_seed():
    first, again, other = voice(1, 2.0, 16000), voice(1, 2.0, 16000), voice(2, 2.0, 16000)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (32000,) and first.isfinite().all() and float(first.abs().max()) <= 1
    loud = first.unfold(0, 800, 800).pow(2).mean(1).sqrt()
    assert float(loud.max()) > 4 * float(loud.min()), "syllables and pauses"
    spectrum = torch.fft.rfft(first).abs().pow(2)
    below = spectrum[: len(spectrum) * 4000 // 8000].sum() / spectrum.sum()
    assert below > 0.5, "most of speech lies below 4 kHz"
