"""A large file is hashed once; a change of any kind has it hashed again."""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import time
from pathlib import Path

import pytest

from engines.errors import DigestError
from engines.networks import GUARD_NETWORKS, NETWORKS
from engines.store import digests
from engines.store import engine_store as store
from engines.store.engine_store import EngineStore

OLD = 1_700_000_000_000_000_000  # nanoseconds


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "LARGE", 1)
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**18))  # what was just written counts as settled
    return tmp_path / "cache" / "saferedir"


@pytest.fixture
def hashed(monkeypatch):
    """Of what was hashed, in order: names of files, "" for what had been read or mapped."""
    names: list[str] = []
    of_file, of_content = digests.hash_file, digests.hash_content
    monkeypatch.setattr(digests, "hash_file", lambda file: names.append(Path(file.name).name) or of_file(file))
    monkeypatch.setattr(store, "hash_content", lambda content: names.append("") or of_content(content))
    return names


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"heavy" * 1000)
    return path


def expected(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_large_file_is_read_once(cache, hashed, weights):
    assert [digests.remembered_digest(weights) for _ in range(3)] == [expected(weights)] * 3
    assert hashed == ["weights"]
    assert cache.stat().st_mode & 0o077 == 0


def test_a_small_file_is_read_each_time(cache, hashed, weights, monkeypatch):
    monkeypatch.setattr(digests, "LARGE", weights.stat().st_size + 1)
    assert [digests.remembered_digest(weights) for _ in range(2)] == [expected(weights)] * 2
    assert len(hashed) == 2 and not (cache / "digests").exists()


def test_a_change_that_hides_itself_is_seen(cache, weights):
    """Same inode, same size, and mtime set back: ctime tells."""
    os.utime(weights, ns=(OLD, OLD))
    digests.remembered_digest(weights)
    with open(weights, "r+b") as file:
        file.write(b"h3avy")
    os.utime(weights, ns=(OLD, OLD))
    assert weights.stat().st_mtime_ns == OLD
    assert digests.remembered_digest(weights) == expected(weights)


def test_a_change_through_a_mapping_that_was_written_to_before(cache, weights):
    """Times do not move when a page that waits to be written to disk changes; so it is written before times are noted."""
    if not _moves_times(weights):
        pytest.skip("this file system does not tell of changes through mappings")
    with open(weights, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        for letter in b"xyz":
            mapped[0] = letter
            assert digests.remembered_digest(weights) == expected(weights)
            time.sleep(0.02)


def _moves_times(path) -> bool:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        os.fsync(file.fileno())
        before = os.stat(path).st_ctime_ns
        time.sleep(0.02)
        mapped[0] = mapped[0]
        return os.stat(path).st_ctime_ns != before


def test_another_file_of_the_same_name_is_seen(cache, weights, tmp_path):
    digests.remembered_digest(weights)
    other = tmp_path / "other"
    other.write_bytes(b"h3avy" * 1000)
    os.replace(other, weights)
    assert digests.remembered_digest(weights) == expected(weights)


def test_a_file_that_has_just_changed_is_not_remembered(cache, hashed, weights, monkeypatch):
    monkeypatch.setattr(digests, "SETTLED_NS", 2_000_000_000)
    for _ in range(2):
        digests.remembered_digest(weights)
    assert len(hashed) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, '{"file": {}, "sha256": "00"}', '{"sha256": "00"}'])
def test_a_broken_record_is_written_anew(cache, hashed, weights, content):
    digests.remembered_digest(weights)
    (record,) = (cache / "digests").iterdir()
    record.write_text(content)
    assert digests.remembered_digest(weights) == expected(weights)
    assert json.loads(record.read_text())["sha256"] == expected(weights)
    assert len(hashed) == 2


def test_a_record_with_another_digest_is_not_believed(cache, hashed, weights):
    digests.remembered_digest(weights)
    (record,) = (cache / "digests").iterdir()
    record.write_text(record.read_text().replace(expected(weights), "0" * 64))
    assert digests.remembered_digest(weights, expected(weights)) == expected(weights)
    assert digests.remembered_digest(weights) == expected(weights) and len(hashed) == 2


def test_a_full_cache(cache, hashed, weights, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(digests, "replacing", full)
    assert [digests.remembered_digest(weights) for _ in range(2)] == [expected(weights)] * 2
    assert len(hashed) == 2


def test_no_home(hashed, weights, monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setattr(digests, "LARGE", 1)
    assert [digests.remembered_digest(weights) for _ in range(2)] == [expected(weights)] * 2
    assert len(hashed) == 2


def test_a_cache_that_others_can_write_to_is_not_believed(cache, hashed, weights):
    digests.remembered_digest(weights)
    cache.chmod(0o777)
    digests.remembered_digest(weights)
    assert len(hashed) == 2


def test_no_cache_folder(monkeypatch, weights, hashed, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(digests, "LARGE", 1)
    assert [digests.remembered_digest(weights) for _ in range(2)] == [expected(weights)] * 2
    assert len(hashed) == 2


def test_the_guard_is_hashed_at_every_start(cache, hashed, demo_engines, backend):
    for _ in range(2):
        EngineStore(demo_engines).load(list(NETWORKS), backend)
    assert len(hashed) == len(NETWORKS) + len(GUARD_NETWORKS)


def test_a_remembered_digest_is_still_held_against_the_manifest(cache, demo_engines, backend, tmp_path):
    """The manifest is altered, the file not."""
    EngineStore(demo_engines).load(["unet"], backend)
    opened = EngineStore(demo_engines)
    record = opened.manifest.files["unet/model.onnx"]
    opened.manifest.files["unet/model.onnx"] = type(record)("0" * 64, record.size)
    with pytest.raises(DigestError, match=f"expected SHA-256 {'0' * 64}, found {record.sha256}"):
        opened.load(["unet"], backend)
