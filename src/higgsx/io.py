"""The one place that touches files for writing, and reads them raw.

Every failure of the disk leaves here as a StorageError in one line. A finished file appears only by a rename,
so that whatever goes wrong before leaves the target as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path

from higgsx.errors import HiggsxError, SourceError, StorageError
from higgsx.jsontext import parse_json
from higgsx.units import format_bytes

PathLike = str | os.PathLike[str]
Bytes = bytes | bytearray | memoryview

MAX_TEXT = 1 << 28
"""Bytes of the longest text file that is read whole."""

_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def open_for_reading(path: PathLike) -> int:
    """A file descriptor of an ordinary file; StorageError for anything else, without waiting on a pipe."""
    try:
        # a FIFO without a writer would block: look first, and open without blocking in case it changes
        _refuse_special(os.stat(path).st_mode, path)
        fd = os.open(path, os.O_RDONLY | _BINARY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise _storage(error, path, "cannot be opened") from None
    try:
        _refuse_special(os.fstat(fd).st_mode, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _refuse_special(mode: int, path: PathLike) -> None:
    if stat.S_ISDIR(mode):
        raise StorageError("is a folder", where=path, expected="a file")
    if not stat.S_ISREG(mode):
        raise StorageError("is no ordinary file", where=path, expected="a file on a disk")


def file_size(fd: int) -> int:
    return os.fstat(fd).st_size


def read_at(fd: int, offset: int, length: int, *, where: object = None) -> bytes:
    """Exactly `length` bytes; StorageError where the file ends before."""
    buffer = bytearray(length)
    read_into(fd, offset, memoryview(buffer), where=where)
    return bytes(buffer)


def read_into(fd: int, offset: int, buffer: memoryview, *, where: object = None) -> None:
    """Fill a writable buffer of bytes from `offset` on; StorageError where the file ends before."""
    done = 0
    while done < len(buffer):
        try:
            count = _pread_into(fd, offset + done, buffer[done:])
        except OSError as error:
            raise _storage(error, where, f"cannot be read at byte {offset + done}") from None
        if count == 0:
            raise StorageError(
                "the file ends too early",
                where=where,
                got=f"{offset + done} bytes",
                expected=offset + len(buffer),
            )
        done += count


def _pread_into(fd: int, offset: int, buffer: memoryview) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [buffer], offset)
    os.lseek(fd, offset, os.SEEK_SET)
    chunk = os.read(fd, min(len(buffer), 1 << 24))
    buffer[: len(chunk)] = chunk
    return len(chunk)


def write_at(fd: int, offset: int, data: Bytes, *, where: object = None) -> None:
    """All of `data`, however little the system takes at a time; StorageError where the disk is full."""
    view = memoryview(data)
    view = view.cast("B") if view.nbytes else memoryview(b"")
    done = 0
    while done < len(view):
        try:
            count = _pwrite(fd, offset + done, view[done : done + (1 << 30)])
        except OSError as error:
            raise _storage(error, where, f"cannot be written at byte {offset + done}") from None
        if count == 0:
            raise StorageError(f"cannot be written at byte {offset + done}", where=where, got="no progress")
        done += count


def _pwrite(fd: int, offset: int, view: memoryview) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, view, offset)
    os.lseek(fd, offset, os.SEEK_SET)
    return os.write(fd, view)


def refuse_existing(path: PathLike, force: bool = False) -> None:
    """StorageError if something stands there already; early, before hours of work."""
    if not force and os.path.lexists(path):
        raise _exists(path)


def same_file(a: PathLike, b: PathLike) -> bool:
    """Whether both names are one file, however they are spelt or linked. False where one is absent."""
    try:
        return os.path.samefile(a, b)
    except OSError:
        return False


def require_free_space(folder: PathLike, nbytes: int) -> None:
    """StorageError where fewer than `nbytes` are free in `folder`."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise _storage(error, folder, "cannot be examined") from None
    if free < nbytes:
        raise StorageError(
            "the disk is full",
            where=folder,
            got=f"{format_bytes(free)} free",
            expected=f"{nbytes} bytes ({format_bytes(nbytes)})",
            remedy="free some space or write elsewhere",
            code="FULL",
        )


class PartialFile:
    """A file in the making: hidden beside its target until `commit`, which is one rename.

    target   where it will stand; a link is followed
    size     of the finished file; free space for it is required now, and the file is laid out (sparse)
    force    replace what stands there
    """

    def __init__(self, target: PathLike, *, size: int = 0, force: bool = False) -> None:
        self.target = Path(os.path.realpath(target))
        self.force = force
        self._refuse_target()
        require_free_space(self.target.parent, size)
        self.fd, self.path = self._create()
        try:
            os.ftruncate(self.fd, size)
        except OSError as error:
            self.discard()
            raise _storage(error, self.path, f"cannot be made {size} bytes long") from None

    def _refuse_target(self) -> None:
        if not self.target.parent.is_dir():
            raise StorageError("there is no such folder", where=self.target.parent)
        try:
            mode = os.stat(self.target).st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            raise _storage(error, self.target, "cannot be examined") from None
        _refuse_special(mode, self.target)
        if not self.force:
            raise _exists(self.target)

    def _create(self) -> tuple[int, Path]:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | _BINARY
        for attempt in range(100):
            # a killed run may have left one behind, and process numbers repeat
            again = f"-{attempt}" if attempt else ""
            path = self.target.with_name(f".{self.target.name}.part-{os.getpid()}{again}")
            try:
                return os.open(path, flags, 0o666), path
            except FileExistsError:
                continue
            except OSError as error:
                raise _storage(error, path, "cannot be created") from None
        raise StorageError(
            "too many unfinished files", where=self.target.parent, remedy="delete .*.part-* there"
        )

    def write_at(self, offset: int, data: Bytes) -> None:
        write_at(self.fd, offset, data, where=self.path)

    def sync(self) -> None:
        """Everything written so far is on the disk. After one failure it must be discarded."""
        try:
            os.fsync(self.fd)
        except OSError as error:
            raise _storage(error, self.path, "cannot be written to the disk") from None
        _forget(self.fd)

    def commit(self) -> None:
        """The finished file takes its place; without `force` it replaces nothing."""
        self._keep_mode()
        self._move(self.target, replace=self.force)

    def reject(self) -> Path:
        """Put the file aside as `NAME.rejected.hgs`, replacing an older one; returns that path."""
        name = self.target.name.removesuffix(".hgs") + ".rejected.hgs"
        self._move(self.target.with_name(name), replace=True)
        return self.target.with_name(name)

    def discard(self) -> None:
        """Remove the partial file. Nothing happens after `commit`, `reject` or another `discard`."""
        if self.fd < 0:
            return
        self._close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def _close(self) -> None:
        fd, self.fd = self.fd, -1
        os.close(fd)

    def _keep_mode(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.fchmod(self.fd, stat.S_IMODE(os.stat(self.target).st_mode))

    def _move(self, target: Path, replace: bool) -> None:
        _forget(self.fd)
        try:
            if replace:
                os.replace(self.path, target)
            else:
                _rename_new(self.path, target)
            self._close()
            _sync_folder(target.parent)
        except OSError as error:
            raise _storage(error, target, "cannot be put in place") from None


def _forget(fd: int) -> None:
    """What is on the disk leaves the memory: whoever reads it next reads the disk, and a mapping of it gets
    large pages where those of writing are small (weights are then read up to 8 % faster)."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _rename_new(path: Path, target: Path) -> None:
    """A rename that replaces nothing, even if another program creates the target this very moment."""
    try:
        os.link(path, target)
    except FileExistsError:
        raise _exists(target) from None
    except (OSError, AttributeError):
        # a file system without links
        if target.exists():
            raise _exists(target) from None
        os.rename(path, target)
    else:
        os.unlink(path)


def _sync_folder(folder: Path) -> None:
    """The rename itself is durable. Only POSIX can open a folder."""
    if os.name != "posix":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file_atomic(path: PathLike, data: Bytes) -> None:
    """The whole file or nothing of it; an existing one is replaced."""
    partial = PartialFile(path, size=memoryview(data).nbytes, force=True)
    try:
        partial.write_at(0, data)
        partial.sync()
        partial.commit()
    finally:
        partial.discard()


def read_bytes(path: PathLike, *, limit: int = MAX_TEXT) -> bytes:
    """A whole small file; StorageError beyond `limit` bytes."""
    fd = open_for_reading(path)
    try:
        size = file_size(fd)
        if size > limit:
            raise StorageError("the file is too long", where=path, got=size, expected=f"at most {limit}")
        return read_at(fd, 0, size)
    finally:
        os.close(fd)


def read_text(path: PathLike, *, limit: int = MAX_TEXT, error: type[HiggsxError] = SourceError) -> str:
    """A whole small UTF-8 file; `error` (UTF8) where it is something else."""
    try:
        return read_bytes(path, limit=limit).decode()
    except UnicodeDecodeError as problem:
        raise error("is no UTF-8 text", where=path, got=f"byte {problem.start}", code="UTF8") from None


def system_text(path: PathLike) -> str:
    """What the system tells in a file of its own, whose length it does not know; empty where none is."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""


def read_json(path: PathLike, *, limit: int = MAX_TEXT, error: type[HiggsxError] = SourceError) -> object:
    """A whole JSON file, by the rules of `parse_json`."""
    return parse_json(read_text(path, limit=limit, error=error), where=path, error=error)


def _exists(path: PathLike) -> StorageError:
    remedy = "choose another name or pass --force"
    return StorageError("exists already", where=path, remedy=remedy, code="EXISTS")


def _storage(error: OSError, path: object, what: str) -> StorageError:
    if error.errno in _FULL:
        remedy = "free some space or write elsewhere"
        return StorageError("the disk is full", where=path, got=what, remedy=remedy, code="FULL")
    if isinstance(error, FileNotFoundError):
        return StorageError("there is no such file", where=path)
    return StorageError(what, where=path, got=error.strerror or str(error))
