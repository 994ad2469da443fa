"""A GGUF of a small folder by llama.cpp's own converter, without vocabulary (token numbers are all we need).

    python small_gguf.py LLAMA_CPP_SOURCES FOLDER OUT

Its converter knows tokenizers by checksum; ours are not among them.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(sources: Path, folder: Path, out: Path) -> None:
    sys.path[:0] = [str(sources), str(sources / "gguf-py")]
    import gguf
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    hparams = ModelBase.load_hparams(folder, False)
    name = get_model_architecture(hparams, ModelType.TEXT)
    try:
        kind = get_model_class(name)
    except NotImplementedError:
        raise SystemExit(f"llama.cpp has no converter for {name}") from None

    class Plain(kind):  # type: ignore[misc, valid-type]
        model_arch = kind.model_arch

        def set_vocab(self) -> None:
            self._set_vocab_none()

        def set_gguf_parameters(self) -> None:
            # named otherwise in a configuration that transformers saved anew
            self.hparams.setdefault("n_ctx", self.hparams.get("n_positions"))
            super().set_gguf_parameters()
            if name == "GPT2LMHeadModel":
                self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])

    with torch.inference_mode():
        Plain(folder, gguf.LlamaFileType.MOSTLY_BF16, out, hparams=hparams).write()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
