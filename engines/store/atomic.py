"""Files and folders that are there whole or not at all, also when their writer is killed or the disk is full."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from engines.errors import SafeRedirError
from engines.store.locks import is_held, lock, sole_holder

# Of hidden names beside a target: what is being written, what it replaces, and the lock of the writer.
NEW, OLD, LOCK = ".saferedir-new", ".saferedir-old", ".saferedir-lock"
STREAMS = ("/dev/fd/", "/dev/std", "/proc/")  # open files of a process, which may be regular
PATIENCE = 5.0  # seconds that a reader gives a writer to put a folder in place, which takes two renames


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; the file takes the place of `path` when the block ends, or vanishes when it fails.

    A symbolic link stays, and the file behind it is replaced. A device or a pipe is written to.

    Raises:
        OSError: it cannot be written; the error names `path`.
    """
    if _is_stream(path):
        with tempfile.TemporaryDirectory(prefix="saferedir-") as scratch, _naming(path, Path(scratch)):
            temporary = Path(scratch, path.name)
            yield temporary
            with open(temporary, "rb") as source, open(path, "wb") as stream:
                shutil.copyfileobj(source, stream)
        return
    target = Path(os.path.realpath(path))
    with _new_folder(target, path) as (folder, _):
        yield folder / target.name
        os.replace(folder / target.name, target)


@contextmanager
def sole_writer(target: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Be the only process that replaces the folder `target`. What processes that were killed have left is put right first.

    `report` is told where another process is waited for.
    """
    folder = Path(os.path.realpath(target))
    with ExitStack() as stack:
        with _naming(target, folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            told = f"{target}: another process is writing it; waiting for that to end"
            alone = stack.enter_context(sole_holder(_beside(folder, LOCK), lambda: report(told)))
        if alone:
            _put_back(folder)
            for suffix in (NEW, OLD):
                _remove_leftovers(folder, suffix)
        yield


@contextmanager
def replacing_folder(target: Path, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A folder beside `target` that takes its place when the block ends, or vanishes when it fails. For a `sole_writer`.

    `check` is called right before, and raises where the folder that is there must stay.

    Raises:
        OSError: it cannot be written; the error names `target`, as other errors of the block do.
    """
    final = Path(os.path.realpath(target))
    with _new_folder(final, target) as (folder, mode):
        retired = folder.with_suffix(OLD)
        yield folder
        check()
        folder.chmod(mode)
        if final.exists():
            os.rename(final, retired)
        try:
            os.rename(folder, final)
        except BaseException:
            if retired.exists():
                os.rename(retired, final)
            raise
        if retired.exists():
            os.rename(retired, folder)  # what is half removed must not look like engines; `_new_folder` removes it


def recover_folder(target: Path) -> None:
    """Put a folder back that a killed process had moved aside to replace it; one that is at it right now is waited for."""
    folder, started = Path(os.path.realpath(target)), time.monotonic()
    while not folder.exists() and is_held(_beside(folder, LOCK)) and _leftovers(folder, OLD):
        if time.monotonic() - started > PATIENCE:
            return
        time.sleep(0.01)
    _put_back(folder)


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of a file have left beside it."""
    _remove_leftovers(Path(os.path.realpath(path)), NEW)


def is_leftover(name: str) -> bool:
    """Whether a file name is one that `replacing` gives."""
    return name.startswith(".") and name.endswith(NEW)


def _is_stream(path: Path) -> bool:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return not stat.S_ISREG(status.st_mode) or os.path.abspath(path).startswith(STREAMS)


def _beside(target: Path, suffix: str) -> Path:
    """The hidden path of this suffix; the name of a target, if too long for one, is given by its digest."""
    name = target.name if len(os.fsencode(target.name)) <= 180 else hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
    return target.with_name(f".{name}{suffix}")


@contextmanager
def _new_folder(target: Path, path: Path) -> Iterator[tuple[Path, int]]:
    """A new folder beside `target`, and the mode that folders are made with. It is removed at the end if it is there still.

    It is locked, nobody else may enter it, and nobody can guess its name. `path` is the target as the user wrote it, for errors.
    """
    with _naming(path, target.parent):
        folder, descriptor = _make_folder(target)
    try:
        with _naming(path, folder):
            mode = stat.S_IMODE(folder.stat().st_mode)
            folder.chmod(0o700)
            yield folder, mode
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _make_folder(target: Path) -> tuple[Path, int | None]:
    while True:
        folder = _beside(target, f".{secrets.token_hex(8)}{NEW}")
        os.mkdir(folder)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another process took it for left over
            continue
        except PermissionError:  # Windows opens no folders
            return folder, None
        if lock(descriptor) is not False and folder.exists():
            return folder, descriptor
        os.close(descriptor)


def _leftovers(target: Path, suffix: str) -> list[Path]:
    """Folders of ours beside `target` whose names have this suffix."""
    start = _beside(target, ".").name
    with contextlib.suppress(OSError):
        return [
            path
            for path in target.parent.iterdir()
            if path.name.startswith(start)
            and path.name.endswith(suffix)
            and len(path.name) == len(start) + 16 + len(suffix)
            and stat.S_ISDIR(path.lstat().st_mode)
            and (not hasattr(os, "getuid") or path.lstat().st_uid == os.getuid())
        ]
    return []


def _put_back(target: Path) -> None:
    if not os.path.lexists(target):
        for retired in _leftovers(target, OLD)[:1]:
            with contextlib.suppress(OSError):  # another process was faster, or may not
                os.rename(retired, target)


def _remove_leftovers(target: Path, suffix: str) -> None:
    """Remove the leftovers that no process has locked."""
    for folder in _leftovers(target, suffix):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                if lock(descriptor):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


@contextmanager
def _naming(path: Path, folder: Path) -> Iterator[None]:
    """Let errors name `path`, which the user gave, instead of nothing or of what is below `folder`."""
    try:
        yield
    except SafeRedirError as error:
        if error.args and isinstance(error.args[0], str) and folder.name.endswith(NEW):
            error.args = (error.args[0].replace(str(folder), str(path)), *error.args[1:])
        raise
    except OSError as error:
        if error.errno is None:
            raise
        if error.filename is None or Path(os.fsdecode(str(error.filename))).is_relative_to(folder):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
