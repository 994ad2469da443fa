"""What a batch is, how a model is called, what its outputs and labels are."""

from higgsx.tasks.base import NO_LABEL, Batches, Encoder, ModelHandle, Part, Task, Wanted
from higgsx.tasks.classes import Labels, Pictures
from higgsx.tasks.encoder import TextVectors
from higgsx.tasks.example import Example
from higgsx.tasks.language import LanguageModel
from higgsx.tasks.outputs import Outputs
from higgsx.tasks.pairs import Pairs
from higgsx.tasks.speech import SpeechToText

__all__ = [
    "NO_LABEL",
    "Batches",
    "Encoder",
    "Example",
    "Labels",
    "LanguageModel",
    "ModelHandle",
    "Outputs",
    "Pairs",
    "Part",
    "Pictures",
    "SpeechToText",
    "Task",
    "TextVectors",
    "Wanted",
]
