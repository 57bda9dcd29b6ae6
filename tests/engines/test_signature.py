"""With a trusted key set, only what that key has signed is loaded; model-signing's own command agrees."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from engines import manifest as manifest_module
from engines.errors import DigestError, InputError, ManifestError, SignatureError
from engines.manifest import Manifest
from engines.store import signature
from engines.store.engine_store import EngineStore
from engines.store.signature import ENVIRONMENT, SIGNATURE_FILE
from engines.store.signing import sign
from runtime import GuardedPipeline
from saferedir.cli import main

pytest.importorskip("model_signing", reason="needs model-signing: pip install 'saferedir[signing]'")
pytest.importorskip("OpenSSL", reason="needs pyopenssl: pip install 'saferedir[signing]'")

from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: E402  # comes with model-signing
from cryptography.hazmat.primitives.serialization import (  # noqa: E402
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


def write_keys(folder, name, private=None, encryption=None):
    """A key pair as PEM files: private, public."""
    private = private or ec.generate_private_key(ec.SECP256R1())
    paths = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    paths[0].write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()))
    paths[1].write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return paths


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Of two people: private, public."""
    folder = tmp_path_factory.mktemp("keys")
    return {name: write_keys(folder, name) for name in ("ours", "theirs")}


@pytest.fixture
def folder(demo_engines, tmp_path):
    return shutil.copytree(demo_engines, tmp_path / "demo")


@pytest.fixture(autouse=True)
def no_keys_of_the_environment(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.fixture
def signed(folder, keys):
    sign(folder, keys["ours"][0])
    return folder


def test_signed_engines_load_in_every_way(signed, keys, monkeypatch, capsys):
    ours, theirs = keys["ours"][1], keys["theirs"][1]
    with GuardedPipeline(signed, trusted_keys=[theirs, ours]) as pipeline:
        assert pipeline.manifest.guards
    assert GuardedPipeline(signed).manifest.guards  # nothing is asked for without a key
    assert main(["inspect", str(signed), "--trusted-key", str(ours)]) == 0
    assert f"by the trusted key {ours}" in capsys.readouterr().out
    assert main(["inspect", str(signed)]) == 0
    assert "model.sig, not checked" in capsys.readouterr().out
    monkeypatch.setenv(ENVIRONMENT, f"{theirs}:{ours}")
    assert EngineStore(signed).signature.key == ours
    assert EngineStore(signed, [ours]).signature.key == ours  # the option is used in place of the variable
    with pytest.raises(SignatureError):
        EngineStore(signed, [theirs])


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "a red star", "--engine-dir"],
        ["inspect"],
        ["verify"],
        ["optimize"],
        ["serve", "--port", "0"],
        ["ui", "--no-browser"],
    ],
    ids=str,
)
def test_every_command_refuses_what_is_unsigned_or_signed_by_another(folder, keys, arguments, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv(ENVIRONMENT, str(keys["ours"][1]))
    assert main([*arguments, str(folder)]) == 2
    assert "expected the signature of a trusted key, found none; sign with: saferedir sign" in capsys.readouterr().err
    sign(folder, keys["ours"][0])
    assert main([*arguments, str(folder), "--trusted-key", str(keys["theirs"][1])]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1 and "found another (theirs.pub.pem: Key mismatch" in printed


def test_nothing_is_read_before_the_signature(folder, keys, monkeypatch):
    def read(*arguments):
        raise AssertionError("the manifest was read")

    monkeypatch.setattr(Manifest, "read", read)
    for content in (None, b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"mediaType": 1, "verificationMaterial": {}}'):
        if content is not None:
            (folder / SIGNATURE_FILE).write_bytes(content)
        with pytest.raises(SignatureError, match="expected the signature of a trusted key, found (none|another)"):
            GuardedPipeline(folder, trusted_keys=[keys["ours"][1]])


def test_an_altered_manifest_is_not_parsed(signed, keys, monkeypatch):
    path = signed / "manifest.json"
    path.write_text(path.read_text() + " ")

    class NoParser:
        loads = None

    monkeypatch.setattr(manifest_module, "json", NoParser)
    with pytest.raises(DigestError, match="expected the SHA-256 that was signed"):
        EngineStore(signed, [keys["ours"][1]])


def test_a_signature_of_other_engines(signed, keys):
    """A file and its entry in the manifest changed together: what the manifest alone cannot notice."""
    path = signed / "sampler_step" / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    parsed = json.loads((signed / "manifest.json").read_text())
    parsed["files"]["sampler_step/model.onnx"] = manifest_module.FileRecord.of(path).__dict__
    (signed / "manifest.json").write_text(json.dumps(parsed))
    EngineStore(signed).read("sampler_step/model.onnx")
    with pytest.raises(DigestError, match=r"manifest\.json: altered"):
        EngineStore(signed, [keys["ours"][1]])


def test_an_altered_file(signed, keys):
    path = signed / "guard" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DigestError, match="guard/model.onnx: altered"):
        GuardedPipeline(signed, trusted_keys=[keys["ours"][1]])


@pytest.mark.parametrize("change", ["payload", "sig", "keyid"])
def test_an_altered_bundle(signed, keys, change):
    path = signed / SIGNATURE_FILE
    bundle = json.loads(path.read_text())
    envelope = bundle["dsseEnvelope"]
    if change == "payload":
        envelope["payload"] = envelope["payload"][:40] + ("A" if envelope["payload"][40] != "A" else "B") + envelope["payload"][41:]
    elif change == "sig":
        envelope["signatures"][0]["sig"] = envelope["signatures"][0]["sig"][::-1]
    else:  # claims to be of their key
        bundle["verificationMaterial"]["publicKey"]["hint"] = "0" * 64
    path.write_text(json.dumps(bundle))
    with pytest.raises(SignatureError, match="found another"):
        EngineStore(signed, [keys["ours"][1]])


def test_a_signature_by_which_nothing_is_compared_is_refused(signed, keys, monkeypatch):
    """Were the library to compare in another way one day, no digest would be known."""
    monkeypatch.setattr(signature._SignedFiles, "__eq__", lambda self, manifest: True)
    with pytest.raises(SignatureError, match=r"without the SHA-256 of manifest\.json"):
        EngineStore(signed, [keys["ours"][1]])


def library_command(*arguments) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "model_signing", *map(str, arguments)], capture_output=True, text=True)


def test_the_librarys_command_agrees(signed, keys):
    command = ("verify", "key", signed, "--signature", signed / SIGNATURE_FILE, "--public_key", keys["ours"][1])
    done = library_command(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    (signed / "guard" / "model.onnx").write_bytes(b"another")
    assert library_command(*command).returncode != 0


def test_what_the_librarys_command_signed_loads(folder, keys):
    target = folder / SIGNATURE_FILE
    done = library_command("sign", "key", folder, "--private_key", keys["ours"][0], "--signature", target)
    assert done.returncode == 0, done.stdout + done.stderr
    assert EngineStore(folder, [keys["ours"][1]]).signature.manifest_digest == Manifest.read(folder)[1]


def test_only_what_was_built_is_signed(folder, keys):
    ours = keys["ours"][0]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ManifestError, match=r"found also 'notes\.txt'; remove it"):
        sign(folder, ours)
    (folder / "notes.txt").unlink()
    (folder / "link").symlink_to(folder / "guard" / "model.onnx")
    with pytest.raises(ManifestError, match="expected nothing but files"):
        sign(folder, ours)
    (folder / "link").unlink()
    path = folder / "guard" / "model.onnx"
    content = path.read_bytes()
    path.write_bytes(content + b"\0")
    with pytest.raises(DigestError, match="guard/model.onnx: altered"):
        sign(folder, ours)
    path.unlink()
    with pytest.raises(DigestError, match="guard/model.onnx: missing"):
        sign(folder, ours)
    assert not (folder / SIGNATURE_FILE).exists()
    path.write_bytes(content)
    assert sign(folder, ours) == sign(folder, ours) == folder / SIGNATURE_FILE  # again: its old signature is not among the files


def test_keys_that_cannot_be_used(signed, keys, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty.pem").write_text("")
    rsa_keys = write_keys(tmp_path, "rsa", rsa.generate_private_key(65537, 2048))
    koblitz = write_keys(tmp_path, "koblitz", ec.generate_private_key(ec.SECP256K1()))
    locked = write_keys(tmp_path, "locked", encryption=BestAvailableEncryption(b"secret"))
    for key in (tmp_path / "none.pem", tmp_path, tmp_path / "empty.pem", rsa_keys[0], koblitz[0], locked[0], keys["ours"][1]):
        with pytest.raises(InputError, match="--key: expected a private key"):
            sign(signed, key)
    for key in (tmp_path / "none.pem", tmp_path, tmp_path / "empty.pem", rsa_keys[1], koblitz[1], keys["ours"][0]):
        with pytest.raises(InputError, match="expected a (trusted|public) key"):
            EngineStore(signed, [keys["ours"][1], key])
    for given in (str(keys["ours"][1]), None, [7], True):
        with pytest.raises(InputError, match="trusted_keys: expected a list"):
            GuardedPipeline(signed, trusted_keys=given)
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "none.pem"))
    with pytest.raises(InputError, match="expected a trusted key"):
        GuardedPipeline(signed)
    assert main(["sign", str(signed)]) == 2 and "--key" in capsys.readouterr().err


def test_the_command(folder, keys, capsys):
    assert main(["sign", str(folder), "--key", str(keys["ours"][0])]) == 0
    assert "model.sig: signed" in capsys.readouterr().out
    assert main(["verify", str(folder), "--trusted-key", str(keys["ours"][1])]) == 0


def test_without_the_library(folder, keys, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "model_signing"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    for call in (lambda: sign(folder, keys["ours"][0]), lambda: EngineStore(folder, [keys["ours"][1]])):
        with pytest.raises(InputError, match=r'pip install "saferedir\[signing\]"'):
            call()
    assert EngineStore(folder).signature is None
