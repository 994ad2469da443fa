"""From one text to another."""

from higgsx.tasks.example import Keywords


class Pairs(Keywords):
    """Predict the next token of a target text, given the source text and the tokens before (teacher forcing).

    A batch is an `Example` of several pairs, filled up at the end: source ids [B, S] with their mask, ids
    that the decoder is given [B, T]. Positions are B · T, pair after pair; what is filled up has no label.
    """

    kind = "pairs"
