"""What a batch is, how a model is called, what its outputs and labels are."""

from higgsx.tasks.base import NO_LABEL, Encoder, ModelHandle, Task
from higgsx.tasks.language import LanguageModel

__all__ = ["NO_LABEL", "Encoder", "LanguageModel", "ModelHandle", "Task"]
