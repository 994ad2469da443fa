"""Make the golden files that are not there yet: `python tests/golden/make.py`.

Each is written and read back by the package and by the reader of docs/reader. If both see the same it is
stored, compressed with xz, and entered in `digests.json`. A file that exists is never written again.
"""

from __future__ import annotations

import importlib.util
import json
import lzma
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from blake3 import blake3
from golden_cases import CASES, RETIRED
from golden_models import MODELS, again

from higgsx.archive import Archive

FOLDER = Path(__file__).resolve().parent
DIGESTS = FOLDER / "digests.json"
READER = FOLDER.parents[1] / "docs" / "reader" / "hgs_reader.py"

Entry = dict[str, object]
"""bytes; content, file: digests; values: tensor → digest, in the order of the file."""


def second_reader() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hgs_reader", READER)
    if spec is None or spec.loader is None:
        raise ImportError(str(READER))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stored_file(name: str) -> Path:
    return FOLDER / f"{name}.hgs.xz"


def unpack(name: str, path: Path) -> Path:
    path.write_bytes(lzma.decompress(stored_file(name).read_bytes()))
    return path


def digests() -> dict[str, Entry]:
    return json.loads(DIGESTS.read_text(encoding="ascii")) if DIGESTS.exists() else {}


def seal(entries: dict[str, Entry], count: int) -> str:
    """BLAKE3 (hex) of the first `count` entries, names and all: what may not change any more."""
    listed = list(entries.items())[:count]
    return blake3(json.dumps(listed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_of(values: np.ndarray | torch.Tensor) -> str:
    """First 16 bytes (hex) of BLAKE3 of the values, row-major, little-endian: float32 for compressed tensors,
    F16 and BF16; any other dense tensor as it is stored."""
    if isinstance(values, torch.Tensor):
        small = values.dtype in (torch.float16, torch.bfloat16)
        values = (values.float() if small else values).numpy()
    raw = np.ascontiguousarray(values)
    return blake3(raw.astype(raw.dtype.newbyteorder("<")).tobytes()).hexdigest(length=16)


def seen_by_package(path: Path) -> Entry:
    with Archive.open(path) as archive:
        damaged = archive.verify()
        if damaged:
            raise ValueError(f"{path.name}: {damaged}")
        return {
            "bytes": path.stat().st_size,
            "content": archive.file.content_digest,
            "file": archive.file.read("hgs.tail")[-32:].hex(),
            "values": {name: digest_of(archive.decode(name)) for name in archive.tensors},
        }


def seen_by_second_reader(path: Path, reader: ModuleType) -> Entry:
    file = reader.File(path)
    damaged = file.verify()
    if damaged:
        raise ValueError(f"{path.name}: {damaged}")
    tensors = file.manifest["tensors"]
    order = sorted(tensors, key=lambda name: file.arrays[tensors[name]["arrays"][0]][2])
    return {
        "bytes": path.stat().st_size,
        "content": file.content_digest,
        "file": file.bytes("hgs.tail")[-32:].hex(),
        "values": {name: digest_of(file.decode(name)) for name in order},
    }


def write_again(name: str, path: Path, golden: Path) -> None:
    """What today's code makes of the case; golden: the file as it is stored."""
    if name in MODELS:
        again(golden, name, path)
    else:
        CASES[name](path)


def main() -> None:
    known, reader = digests(), second_reader()
    lost = [name for name in known if name not in CASES and name not in RETIRED]
    if lost:
        raise SystemExit(f"these have no case any more: {', '.join(lost)}")
    for name in CASES:
        if name in known:
            continue
        if stored_file(name).exists():
            raise SystemExit(f"{stored_file(name).name} exists but is not entered; it is never written over")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.hgs"
            CASES[name](path)
            entry = seen_by_package(path)
            if entry != seen_by_second_reader(path, reader):
                raise SystemExit(f"{name}: the two readers do not agree")
            raw = path.read_bytes()
        stored_file(name).write_bytes(lzma.compress(raw, preset=6 | lzma.PRESET_EXTREME))
        known[name] = entry
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in known.items()]
        DIGESTS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="ascii")
        print(f"{name:24} {len(raw):8} bytes, {stored_file(name).stat().st_size:6} stored")
    print(f"seal of {len(known)} files: {seal(known, len(known))}")


if __name__ == "__main__":
    main()
