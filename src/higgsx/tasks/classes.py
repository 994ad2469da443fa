"""One of a fixed set: what is on a picture, which word is hidden."""

from higgsx.tasks.example import Keywords


class Pictures(Keywords):
    """Tell what is on a picture. A batch is an `Example` of several pictures; a position is a picture."""

    kind = "image"


class Labels(Keywords):
    """Give one of a fixed set of labels to each text or token (hidden words, kinds of texts or of words).

    A batch is an `Example` of several texts; positions are texts, or tokens of all texts.
    """

    kind = "labels"
