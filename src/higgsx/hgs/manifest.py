"""The manifest: what the arrays of a file mean. docs/format.md section 3 is normative."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from higgsx.errors import FormatError
from higgsx.hgs.digest import parse_hex
from higgsx.hgs.layout import DAMAGE, DAMAGE_BYTES, PREFIX, TAIL, TAIL_BYTES, ArrayInfo, check_name
from higgsx.hgs.strictjson import canonical, parse

VERSION = 0
FEATURES: frozenset[str] = frozenset()
"""Features and extensions that this reader knows."""
ASSET = "hgs.asset."
EXTENSION = "hgs.ext."

ASSETS: frozenset[str] = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "added_tokens.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "chat_template.json",
        "spiece.model",
        "sentencepiece.bpe.model",
        "sentencepiece.model",
        "spm.model",
        "bpe.model",
        "bpe.codes",
        "source.spm",
        "target.spm",
        "dict.txt",
        "encoder.json",
        "vocab.bpe",
        "tekken.json",
        "normalizer.json",
        "processor_config.json",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
        "modules.json",
        "pooling_config.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "LICENSE",
        "LICENSE.md",
        "LICENSE.txt",
        "NOTICE",
        "USE_POLICY.md",
        "README.md",
    }
)
"""Files that may travel along. No others: an asset's name never becomes a path of the writer's choosing."""

_TENSOR_FIELDS = {"descriptor", "digest", "arrays"}
_FIELDS = {"version", "features", "tensors", "ties", "assets", "extensions", "plan", "recipe"}


class TensorEntry(NamedTuple):
    """descriptor is JSON whose meaning the codecs know; digest is hexadecimal."""

    descriptor: dict[str, object]
    digest: str
    arrays: tuple[str, ...]


class AssetEntry(NamedTuple):
    length: int
    digest: str


class Extension(NamedTuple):
    name: str
    required: bool
    arrays: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Manifest:
    """tensors and assets by name; ties: names of one tensor, exactly one of which is in `tensors`."""

    tensors: dict[str, TensorEntry]
    ties: tuple[tuple[str, ...], ...]
    assets: dict[str, AssetEntry]
    plan: dict[str, object]
    recipe: dict[str, object]
    extensions: tuple[Extension, ...] = ()
    features: tuple[str, ...] = ()
    version: int = VERSION

    def to_text(self) -> str:
        """Canonical JSON, the text that the content digest covers."""
        return canonical(
            {
                "version": self.version,
                "features": list(self.features),
                "tensors": {
                    name: {
                        "descriptor": entry.descriptor,
                        "digest": entry.digest,
                        "arrays": list(entry.arrays),
                    }
                    for name, entry in self.tensors.items()
                },
                "ties": [list(names) for names in self.ties],
                "assets": {name: entry._asdict() for name, entry in self.assets.items()},
                "extensions": [
                    {**entry._asdict(), "arrays": list(entry.arrays)} for entry in self.extensions
                ],
                "plan": self.plan,
                "recipe": self.recipe,
            }
        )

    @classmethod
    def from_text(cls, text: str) -> Manifest:
        """FormatError: JSON DUP UTF8 VERSION FEATURE MANIFEST NAME ASSET."""
        data = _object(parse(text, "manifest"), "manifest")
        version = data.get("version")
        if type(version) is not int or version != VERSION:
            remedy = "a newer release may read it" if type(version) is int and version > VERSION else None
            raise FormatError(
                "unknown format version",
                got=repr(version)[:40],
                expected=VERSION,
                remedy=remedy,
                code="VERSION",
            )
        _fields(data, _FIELDS, "manifest")
        return cls(
            tensors={
                name: _tensor(name, entry) for name, entry in _object(data["tensors"], "tensors").items()
            },
            ties=tuple(_names(names, "ties") for names in _list(data["ties"], "ties")),
            assets={name: _asset(name, entry) for name, entry in _object(data["assets"], "assets").items()},
            plan=_object(data["plan"], "plan"),
            recipe=_object(data["recipe"], "recipe"),
            extensions=tuple(_extension(entry) for entry in _list(data["extensions"], "extensions")),
            features=_features(data["features"]),
        )

    def check(self, arrays: list[ArrayInfo]) -> None:
        """FormatError (MANIFEST, ASSET) unless every array belongs to one part, in the prescribed order.

        arrays: all of the file, in its order, padding included.
        """
        self._check_ties()
        found = [array for array in arrays if not array.is_pad]
        names = [array.name for array in found]
        position = self._check_tensors(names)
        rest = [f"{ASSET}{name}" for name in sorted(self.assets) if self.assets[name].length]
        rest += [name for extension in self.extensions for name in extension.arrays]
        rest += [DAMAGE, TAIL]
        if names[position:] != rest:
            wrong = next((name for name in names[position:] if name not in rest), None)
            what = "arrays are missing or out of order" if wrong is None else "array belongs to nothing"
            raise FormatError(
                what,
                where=wrong,
                got=repr(names[position : position + 6])[:200],
                expected=repr(rest)[:200],
                code="MANIFEST",
            )
        for array in found[position:]:
            self._check_own(array)

    def _check_tensors(self, names: list[str]) -> int:
        owners = {array: name for name, entry in self.tensors.items() for array in entry.arrays}
        position, seen = 0, 0
        while position < len(names) and names[position] in owners:
            name = owners[names[position]]
            expected = self.tensors[name].arrays
            if tuple(names[position : position + len(expected)]) != expected:
                raise FormatError("arrays are not together", where=name, expected=expected, code="MANIFEST")
            position, seen = position + len(expected), seen + 1
        if seen != len(self.tensors):
            present = set(names)
            lost = next((array for array in owners if array not in present), None)
            raise FormatError("the array of a tensor is missing", where=lost, code="MANIFEST")
        return position

    def _check_ties(self) -> None:
        names = [name for tie in self.ties for name in tie]
        if len(set(names)) != len(names):
            raise FormatError("a name is tied twice", where="ties", code="MANIFEST")
        for tie in self.ties:
            if len(tie) < 2 or sum(name in self.tensors for name in tie) != 1:
                raise FormatError(
                    "not a tie of one stored tensor", where="ties", got=repr(tie)[:200], code="MANIFEST"
                )

    def _check_own(self, array: ArrayInfo) -> None:
        fixed = {DAMAGE: DAMAGE_BYTES, TAIL: TAIL_BYTES}
        if array.name.startswith(ASSET):
            length = self.assets[array.name.removeprefix(ASSET)].length
            if (array.dtype, array.shape) != ("U8", (length,)):
                raise FormatError(
                    "length of an asset", where=array.name, got=array.shape, expected=length, code="ASSET"
                )
        elif array.name in fixed and (array.dtype, array.shape) != ("U8", (fixed[array.name],)):
            raise FormatError(
                "wrong size", where=array.name, got=array.shape, expected=fixed[array.name], code="MANIFEST"
            )


def _tensor(name: str, entry: object) -> TensorEntry:
    check_name(name, "tensor")
    if name.startswith(PREFIX):
        raise FormatError("tensor has a reserved name", where=name, code="NAME")
    data = _object(entry, name)
    _fields(data, _TENSOR_FIELDS, name)
    arrays = tuple(_list(data["arrays"], name))
    if arrays not in ((name,), (f"{name}_hgs",), (f"{name}_hgs", f"{name}_hgsr")):
        raise FormatError(
            "arrays of a tensor",
            where=name,
            got=repr(arrays)[:200],
            expected="the name itself, or it with _hgs and perhaps _hgsr",
            code="MANIFEST",
        )
    return TensorEntry(_object(data["descriptor"], name), parse_hex(data["digest"], name), arrays)


def _asset(name: str, entry: object) -> AssetEntry:
    if name not in ASSETS:
        raise FormatError(
            "unknown asset", got=repr(name)[:80], expected="a name of the fixed list", code="ASSET"
        )
    data = _object(entry, name)
    _fields(data, set(AssetEntry._fields), name)
    length = data["length"]
    if type(length) is not int or length < 0:
        raise FormatError("invalid length", where=name, got=repr(length)[:40], code="ASSET")
    return AssetEntry(length, parse_hex(data["digest"], name))


def _extension(entry: object) -> Extension:
    data = _object(entry, "extensions")
    _fields(data, set(Extension._fields), "extensions")
    name, required = check_name(data["name"], "extension"), data["required"]
    arrays = _names(data["arrays"], name)
    if type(required) is not bool or not all(array.startswith(EXTENSION) for array in arrays):
        raise FormatError("invalid extension", where=name, got=repr(data)[:200], code="MANIFEST")
    if required and name not in FEATURES:
        raise FormatError(
            "unknown required extension", got=name, remedy="a newer release may read it", code="FEATURE"
        )
    return Extension(name, required, arrays, parse_hex(data["digest"], name))


def _features(value: object) -> tuple[str, ...]:
    features = _names(value, "features")
    for feature in features:
        if feature not in FEATURES:
            raise FormatError(
                "unknown required feature", got=feature, remedy="a newer release may read it", code="FEATURE"
            )
    return features


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise FormatError("not a JSON object", where=where, got=repr(value)[:80], code="MANIFEST")
    return value


def _list(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise FormatError("not a list", where=where, got=repr(value)[:80], code="MANIFEST")
    return value


def _names(value: object, where: str) -> tuple[str, ...]:
    names = tuple(check_name(name, f"a part of {where}") for name in _list(value, where))
    if len(set(names)) != len(names):
        raise FormatError("a name stands twice", where=where, got=repr(names)[:200], code="MANIFEST")
    return names


def _fields(data: Mapping[str, object], expected: set[str], where: str) -> None:
    if set(data) != expected:
        raise FormatError(
            "wrong fields",
            where=where,
            got=repr(sorted(data))[:200],
            expected=sorted(expected),
            code="MANIFEST",
        )
