"""Speech to text."""

from higgsx.tasks.example import Keywords


class SpeechToText(Keywords):
    """Predict the next token of a transcript, given the sound and the tokens before it (teacher forcing).

    A batch is an `Example` of one clip: features of the sound, ids that the decoder is given [1, T]. The
    prompt (language, no timestamps) has no labels.
    """

    kind = "speech"
