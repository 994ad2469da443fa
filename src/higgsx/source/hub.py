"""From what a person names to a folder: a path, or an id of the Hub, downloaded into its own cache."""

from __future__ import annotations

import re
from pathlib import Path

from higgsx.errors import SourceError
from higgsx.source.checkpoint import Checkpoint

_WANTED = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors", "LICENSE*", "NOTICE"]
_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[\w.\-]+)?")


def open_source(model: str | Path, revision: str | None = None, token: str | None = None) -> Checkpoint:
    """Open a folder, or a Hub id.

    revision  branch, tag or commit of a Hub id
    token     for a private one; None: the one stored by `hf auth login` or in HF_TOKEN
    SourceError if neither exists, or if there is no network.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return Checkpoint.open(folder)
    if folder.exists():
        raise SourceError("is a file, not a model folder", where=folder)
    if not _ID.fullmatch(str(model)) or str(model).startswith("."):
        raise SourceError(
            "no such folder", where=model, remedy="give a model folder or a Hub id (owner/name)"
        )
    return Checkpoint.open(_download(str(model), revision, token))


def _download(model: str, revision: str | None, token: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, token=token, allow_patterns=_WANTED))
    except Exception as error:  # the client raises many kinds, all of which mean the same here
        reason = str(error).strip().splitlines()
        raise SourceError(
            "no such folder, and the Hub did not give it",
            where=model,
            got=f"{type(error).__name__}: {reason[0][:160] if reason else ''}",
            remedy="check the path, the id, the network and your token",
        ) from error
