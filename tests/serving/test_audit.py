"""The audit log: every change is found, a kill and a full disk are survived and said, and no prompt is in it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engines.errors import InputError
from engines.policy import Policy
from runtime.serving.audit import AuditLog
from runtime.serving.audit_chain import GENESIS, Chain, line_digest, log_files, parse_record, read_lines
from runtime.serving.errors import AuditError
from runtime.serving.limits import Limits
from runtime.serving.prompt_hash import key_file, prompt_hash, prompt_key, read_key
from saferedir.cli import main
from tests.runtime.reports import drawn

KEY = bytes(32)
SECRET = "a burning secret"


def report(verdict: str = "safe", prompt: str = SECRET):
    return drawn(prompt, verdict)[1]


def verified(path: Path) -> Chain:
    """The chain of all files of a log; AuditError where it is broken."""
    chain = Chain()
    for file in log_files(path):
        for line, place in read_lines(file):
            chain.add(line, place)
    return chain


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "audit.jsonl"


def filled(path: Path, count: int = 5, **settings) -> AuditLog:
    log = AuditLog(path, KEY, **settings)
    for number in range(count):
        log.write(report("refused" if number % 2 else "safe"), key="alice")
    return log


def test_what_a_record_holds(path):
    log = filled(path, 2)
    first, second = records(path)
    picture = report()
    assert first == {
        "previous": GENESIS,
        "number": 1,
        "time": first["time"],
        "event": "image",
        "key": "alice",
        "verdict": "safe",
        "image_sha256": picture.image_sha256,
        "manifest_digest": "a" * 64,
        "on_unsafe": "redirect",
        "on_still_unsafe": "withhold",
        "check": "before",
        "guards": [
            {
                "concept": "fire",
                "checkpoint_digest": "c" * 64,
                "policy": dataclasses.asdict(Policy()),
            }
        ],
        "prompt_hmac": prompt_hash(SECRET, KEY),
    }
    lines = path.read_bytes().splitlines()
    assert second["previous"] == line_digest(lines[0]) and log.head == line_digest(lines[1]) and log.number == 2
    assert b"burning" not in path.read_bytes() and os.stat(path).st_mode & 0o077 == 0


def test_a_log_is_continued(path):
    log = filled(path, 3)
    head = log.head
    log.close()
    again = AuditLog(path, KEY)
    assert (again.head, again.number) == (head, 3)
    again.write(report())
    assert verified(path).number == 4 and records(path)[3]["previous"] == head


@pytest.mark.parametrize("line", range(5))
def test_any_changed_record_is_found(path, line):
    filled(path).close()
    original = path.read_bytes()
    lines = original.splitlines(keepends=True)
    for place in range(0, len(lines[line]) - 1, 7):
        changed = bytearray(lines[line])
        changed[place] ^= 1
        path.write_bytes(b"".join([*lines[:line], bytes(changed), *lines[line + 1 :]]))
        if line < 4:
            with pytest.raises(AuditError):
                verified(path)
        else:  # the last record: only a head that was kept elsewhere can tell
            try:
                assert verified(path).head != line_digest(lines[4][:-1])
            except AuditError:
                pass


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda lines: lines[1:], None),  # reads like a log whose first file is elsewhere, and says so
        (lambda lines: lines[:2] + lines[3:], ":3: expected record 3, found number 4: records are missing"),
        (lambda lines: lines[:2] + [lines[3], lines[2]] + lines[4:], ":3: expected record 3, found number 4"),
        (lambda lines: lines[:2] + [b"{}\n"] + lines[2:], ":4: expected a record that accounts for the line before"),
        (lambda lines: lines[:3] + lines[2:], ":4: expected record 4, found number 3"),
        (lambda lines: [b"x\n", *lines], ":2: expected a record that accounts for the line before"),
    ],
)
def test_removed_swapped_and_added_records_are_found(path, capsys, change, message):
    filled(path).close()
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    if message is None:
        assert main(["audit", str(path)]) == 0
        assert "records before are not here" in capsys.readouterr().out
    else:
        assert main(["audit", str(path)]) == 2
        printed = capsys.readouterr().err
        assert message in printed and printed.count("\n") == 1


def test_a_removed_end_needs_the_kept_head(path, capsys):
    log = filled(path)
    kept = log.head
    log.close()
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert main(["audit", str(path)]) == 0  # the file alone cannot tell
    assert main(["audit", str(path), "--head", kept]) == 2
    assert f"expected the record with head {kept}, found none: its end is gone" in capsys.readouterr().err
    log = AuditLog(path, KEY)
    assert main(["audit", str(path), "--head", log.head]) == 0
    assert "that of record 4" in capsys.readouterr().out


def test_the_command_says_what_is_recorded(path, capsys):
    key = prompt_key(key_file(path))
    log = AuditLog(path, key)
    for prompt in (SECRET, "a blue square", SECRET):
        log.write(report(prompt=prompt))
    assert main(["audit", str(path), "--prompt", SECRET]) == 0
    printed = capsys.readouterr().out
    for part in ("1 to 3, each as it was written", "safe 3", log.head, "of prompt    1, 3"):
        assert part in printed
    assert main(["audit", str(path), "--prompt", "other"]) == 0
    assert "no record" in capsys.readouterr().out
    assert main(["audit", str(path.with_name("none"))]) == 2
    assert "expected an audit log, found none" in capsys.readouterr().err


def test_full_files_are_put_aside_and_chained(path, caplog, capsys):
    log = filled(path, 12, largest=1200)
    files = log_files(path)
    assert [file.name for file in files] == [*(f"audit.jsonl.{number}" for number in range(1, len(files))), "audit.jsonl"]
    assert len(files) > 3 and all(file.stat().st_size < 2400 for file in files)
    for before, after in zip(files, files[1:], strict=False):
        begun = records(after)[0]
        assert begun["event"] == "continued" and begun["from"] == before.name
        head = line_digest(before.read_bytes().splitlines()[-1])
        assert begun["previous"] == head and head in caplog.text
    assert verified(path).head == log.head
    log.close()
    assert AuditLog(path, KEY).head == log.head
    assert main(["audit", str(path)]) == 0
    assert "refused 6, safe 6" in capsys.readouterr().out
    files[1].unlink()
    with pytest.raises(AuditError, match="records are missing"):
        verified(path)


def test_a_kill_between_two_files(path):
    """The full file is put aside, and the new one is not there yet, or is empty."""
    for begin in (lambda: None, path.touch):
        log = filled(path, 3)
        head, number = log.head, log.number
        log.close()
        path.rename(path.with_name(f"audit.jsonl.{len(log_files(path))}"))
        begin()
        again = AuditLog(path, KEY)
        assert (again.head, again.number) == (head, number)
        again.write(report())
        again.close()
        assert verified(path).number == number + 1


@pytest.mark.parametrize("kept", [1, 40, -2, -1])
def test_a_record_that_a_kill_cut_off_is_said(path, caplog, capsys, kept):
    filled(path, 3).close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:kept])
    assert main(["audit", str(path)]) == 0
    assert ("are no record: a kill" in capsys.readouterr().out) == (kept != -1)
    log = AuditLog(path, KEY)
    assert "that were cut off" in caplog.text
    log.write(report())
    log.close()
    assert path.read_bytes().startswith(b"".join(lines[:2]) + lines[2][:kept] + b"\n")  # nothing is removed
    chain = verified(path)
    whole = 1 if kept == -1 else 0  # only the line's end was cut off
    assert chain.number == 4 + whole
    assert json.loads(path.read_bytes().splitlines()[3])["event"] == "recovered"
    assert main(["audit", str(path)]) == 0
    assert f"{path}:4; records lost: 0" in capsys.readouterr().out


def test_what_was_cut_off_cannot_be_used_to_change_records(path):
    filled(path, 3).close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:50])
    AuditLog(path, KEY).close()
    content = path.read_bytes().splitlines(keepends=True)
    for changed in (
        [content[0], content[2], content[3]],  # the record before it
        [content[0], content[1], content[3]],  # the part itself
        [content[0], content[1], b"x" + content[2], content[3]],
        [content[0], content[1], content[2]] + [content[3].replace(b'"recovered"', b'"image"')],
    ):
        path.write_bytes(b"".join(changed))
        with pytest.raises(AuditError):
            verified(path)


def test_kills_at_any_byte_of_a_recovery(path):
    """Killed while it writes, killed again while it recovers: the next start goes on all the same."""
    filled(path, 2).close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:30])
    AuditLog(path, KEY).close()
    content = path.read_bytes()
    for end in range(len(lines[0]) + 30, len(content), 13):
        path.write_bytes(content[:end])
        log = AuditLog(path, KEY)
        log.write(report())
        log.close()
        assert verified(path).number in (3, 4)


KILLED = """
import sys
from pathlib import Path
from runtime.serving.audit import AuditLog
from tests.runtime.reports import drawn
log = AuditLog(Path(sys.argv[1]), bytes(32), largest=3000)
while True:
    log.write(drawn()[1])
    print(log.number, log.head, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_was_written(path):
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
        told = [process.stdout.readline().split() for _ in range(20)]
        process.kill()
        told += [line.split() for line in process.communicate()[0].splitlines() if len(line.split()) == 2 and len(line) > 64]
        heads = {}
        chain = Chain()
        for file in log_files(path):
            for line, place in read_lines(file):
                if chain.add(line, place) is not None:
                    heads[chain.number] = chain.head
        assert all(heads[int(number)] == head for number, head in told)
    log = AuditLog(path, KEY)
    assert log.number >= 60 and verified(path).head == log.head


@pytest.fixture
def room(path):
    """Returns a function that leaves so many bytes of room for the file: the system then writes a part of a line, or none."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def leave(count: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before if count is None else (path.stat().st_size + count, before[1]))

    yield leave
    leave(None)


def recovered(path: Path) -> list[tuple[int, int]]:
    """Bytes cut off and records lost, of each record that says so."""
    found = [parse_record(line) for line, _ in read_lines(path)]
    return [(record["cut_bytes"], record["lost"]) for record in found if record and record["event"] == "recovered"]


def test_no_room_where_records_are_required(path, room):
    log = filled(path, 2, required=True)
    room(100)
    for _ in range(2):
        with pytest.raises(AuditError, match="expected a record to be written, found File too large"):
            log.write(report())
    with pytest.raises(AuditError, match="File too large"):
        log.check()  # before anything is drawn
    room(None)
    log.check()
    log.write(report())
    assert log.failures == 2 and verified(path).number == log.number == 4
    assert recovered(path) == [(100, 2)]


def test_no_room_where_they_are_not(path, room, caplog):
    log = filled(path, 2)
    room(0)
    log.write(report())
    log.check()
    assert log.failures == 1 and "File too large" in caplog.text
    room(None)
    log.write(report())
    assert verified(path).number == 4 and recovered(path) == [(0, 1)]


def test_one_writer(path, tmp_path):
    log = filled(path)
    with pytest.raises(AuditError, match="found another server at it"):
        AuditLog(path, KEY)
    log.write(report())  # the first is not disturbed
    log.close()
    AuditLog(path, KEY).close()
    with pytest.raises(AuditError, match="Is a directory"):
        AuditLog(tmp_path, KEY)
    with pytest.raises(AuditError, match="No such file"):
        AuditLog(tmp_path / "none" / "audit.jsonl", KEY)


def test_a_file_that_is_moved_away_is_not_written_on(path):
    log = filled(path, 2, required=True)
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(AuditError, match="found the file moved or removed by another program"):
        log.write(report())
    log.write(report())
    assert verified(path).number == 2 and recovered(path) == [(0, 1)]  # a new log, which begins with what was lost


def test_a_broken_log_is_not_continued(path):
    filled(path).close()
    content = path.read_bytes().replace(b'"safe"', b'"evil"', 1)
    path.write_bytes(content)
    with pytest.raises(AuditError, match=":2: expected the SHA-256 of the record before"):
        AuditLog(path, KEY)
    assert path.read_bytes() == content


def test_threads_share_a_log(path):
    log = AuditLog(path, KEY, largest=5000)

    def write():
        for _ in range(10):
            log.write(report())

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chain = verified(path)
    assert chain.number == log.number >= 40 and chain.head == log.head


def test_keys(tmp_path):
    file = tmp_path / "key"
    key = prompt_key(file)
    assert key == prompt_key(file) == read_key(file) and len(key) == 32 and os.stat(file).st_mode & 0o077 == 0
    assert prompt_hash("a", key) != prompt_hash("a", KEY)
    for text in ("", "abc", "00" * 31, "é" * 64):
        file.write_text(text)
        with pytest.raises(InputError, match="expected a key of 64 hexadecimal digits"):
            prompt_key(file)


FIRE = "a burning blue square"


def draw(served, prompt: str, **options):
    body = {"prompt": prompt, "num_inference_steps": 2, **options}
    return served.client.post("/v1/images/generations", json=body, headers={"Authorization": "Bearer 0123456789abcdef"})


def test_a_server_records_every_image_before_it_answers(serve, path, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("alice 0123456789abcdef\n")
    served = serve(Limits(unguarded=True), audit=path, keys=keys)
    shown = draw(served, FIRE, n=2, seed=7, compare=True)
    assert draw(served, FIRE, seed=7, on_unsafe="refuse").status_code == 400
    found = records(path)
    assert [record["verdict"] for record in found] == ["redirected"] * 2 + ["unguarded"] * 2 + ["refused"]
    assert [record["image_sha256"] for record in found[:4]] == [entry["report"]["image_sha256"] for entry in shown.json()["data"]]
    assert found[4]["image_sha256"] is None and found[4]["on_unsafe"] == "refuse"
    assert {record["key"] for record in found} == {"alice"}
    assert {record["prompt_hmac"] for record in found} == {prompt_hash(FIRE, read_key(key_file(path)))}
    assert {record["manifest_digest"] for record in found} == {shown.json()["saferedir"]["manifest_digest"]}
    head = verified(path).head
    assert served.client.get("/health").json()["audit"] == {"number": 5, "head": head}
    metrics = served.client.get("/metrics", headers={"Authorization": "Bearer 0123456789abcdef"}).text
    assert "saferedir_audit_records 5.0" in metrics and "saferedir_audit_lost_records 0.0" in metrics
    assert "burning" not in path.read_text()


def test_no_picture_without_its_required_record(serve, path, room):
    served = serve(audit=path, audit_required=True)
    assert draw(served, FIRE).status_code == 200
    room(50)
    for _ in range(2):
        answer = draw(served, FIRE)
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "audit_failed" and "data" not in answer.json()
        assert str(path) not in answer.text
    room(None)
    assert draw(served, FIRE).status_code == 200  # the service goes on once it can write
    assert recovered(path) == [(50, 1)] and verified(path).number == 3


def test_pictures_without_records_are_counted(serve, path, room):
    served = serve(audit=path)
    room(0)
    assert draw(served, FIRE).status_code == 200
    room(None)
    assert "saferedir_audit_lost_records 1.0" in served.client.get("/metrics").text
    assert draw(served, FIRE).status_code == 200
    assert recovered(path) == [(0, 1)]
