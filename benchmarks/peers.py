"""llama.cpp's own tools, built once from the source distribution of llama-cpp-python."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

CACHE = Path(os.environ.get("HIGGSX_PEERS", "~/.cache/higgsx-peers")).expanduser()
VERSION = "0.3.36"
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    # its AMX code crashes on virtual machines
    "-DGGML_AMX=OFF",
)


def sources() -> Path:
    """The unpacked source tree of llama.cpp."""
    tree = CACHE / f"llama_cpp_python-{VERSION}" / "vendor" / "llama.cpp"
    if not (tree / "CMakeLists.txt").is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        wanted = f"llama-cpp-python=={VERSION}"
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", wanted]
        subprocess.run([*command, "-d", str(CACHE)], check=True)
        with tarfile.open(next(CACHE.glob("llama_cpp_python-*.tar.gz"))) as archive:
            archive.extractall(CACHE, filter="data")
    return tree


def tool(name: str) -> Path:
    """One of llama.cpp's programs, built if it is not there."""
    tree = sources()
    program = tree / "build" / "bin" / name
    if not program.is_file():
        subprocess.run(["cmake", "-B", "build", *_OPTIONS], cwd=tree, check=True, stdout=subprocess.DEVNULL)
        build = ["cmake", "--build", "build", "-j", str(os.cpu_count()), "--target", name]
        subprocess.run(build, cwd=tree, check=True, stdout=subprocess.DEVNULL)
    return program


def gguf_of(folder: Path) -> Path:
    """A bfloat16 GGUF with the folder's own weights, made once.

    Metadata and tokenizer are those of the publisher's file beside the folder; llama.cpp's converter does not
    know the tokenizer's checksum once transformers has saved it anew. Needs the package gguf.
    """
    out = CACHE / f"{folder.name}-bf16.gguf"
    if not out.is_file():
        _write_gguf(folder, folder.with_name(f"{folder.name}.gguf"), out.with_suffix(".part"))
        out.with_suffix(".part").rename(out)
    return out


_INNER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": ""}


def _name_in_folder(name: str) -> str:
    """Empty for a head of its own: in the folder it is the embedding."""
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_INNER[parts[2]]}.{parts[3]}"
    return f"{_OUTER[parts[0]]}.{parts[1]}" if _OUTER[parts[0]] else ""


def _write_gguf(folder: Path, published: Path, out: Path) -> None:
    import gguf
    import torch
    from safetensors import safe_open

    reader = gguf.GGUFReader(published)
    writer = gguf.GGUFWriter(out, "qwen2")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == gguf.Keys.General.ARCHITECTURE:
            continue
        kind, of = field.types[0], field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, of)
    with safe_open(folder / "model.safetensors", "pt") as source:
        for tensor in reader.tensors:
            name = _name_in_folder(tensor.name)
            if not name:
                continue
            value = source.get_tensor(name)
            if value.dim() < 2:
                writer.add_tensor(tensor.name, value.float().numpy())
            else:
                words = value.contiguous().view(torch.uint8).numpy()
                writer.add_tensor(tensor.name, words, raw_dtype=gguf.GGMLQuantizationType.BF16)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    writer.close()
