"""The file: a strict kind of safetensors with a manifest, digests and a tail. docs/format.md is normative."""

from higgsx.hgs.draft import Draft, overhead, total_size
from higgsx.hgs.layout import ArrayInfo
from higgsx.hgs.manifest import AssetEntry, Manifest, TensorEntry
from higgsx.hgs.reader import HgsFile
from higgsx.hgs.writer import Writer

__all__ = [
    "ArrayInfo",
    "AssetEntry",
    "Draft",
    "HgsFile",
    "Manifest",
    "TensorEntry",
    "Writer",
    "overhead",
    "total_size",
]
