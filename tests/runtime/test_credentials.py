"""Pictures with content credentials: what was signed is read back, and a changed picture is found out."""

from __future__ import annotations

import datetime
import json
import sys

import numpy as np
import pytest
from PIL import Image

from engines.errors import InputError
from engines.policy import Policy
from runtime import Credentials, read_credentials, read_png, save_png
from runtime.png import image_digest
from runtime.report import GuardReport, ImageReport
from saferedir.cli import main

c2pa = pytest.importorskip("c2pa", reason="needs c2pa-python: pip install 'saferedir[credentials]'")

from cryptography import x509  # noqa: E402  # comes with c2pa-python
from cryptography.hazmat.primitives import hashes  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: E402
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: E402
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: E402

TODAY = datetime.datetime.now(datetime.timezone.utc)


def certificate(name, key, issuer, issuer_key, *, authority=False, usage=ExtendedKeyUsageOID.EMAIL_PROTECTION, days=(-1, 30)):
    """PEM of a certificate for `key`, signed by the issuer's key; valid between two days, counted from today."""

    def names(common):
        return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Studio"), x509.NameAttribute(NameOID.COMMON_NAME, common)])

    use = {name: False for name in ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")}
    begins, ends = (TODAY + datetime.timedelta(days=number) for number in days)
    builder = (
        x509.CertificateBuilder(names(issuer), names(name), key.public_key(), x509.random_serial_number(), begins, ends)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=authority,
                crl_sign=authority,
                encipher_only=False,
                decipher_only=False,
                **use,
            ),
            critical=True,
        )
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM)


ROOT_KEY = ec.generate_private_key(ec.SECP256R1())


def write_pair(folder, key=None, form=PrivateFormat.PKCS8, **options):
    """Files of a key and of its certificate, which the root has issued."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    paths = folder / "key.pem", folder / "cert.pem"
    paths[0].write_bytes(key.private_bytes(Encoding.PEM, form, NoEncryption()))
    paths[1].write_bytes(certificate("Signer", key, "Root", ROOT_KEY, **options))
    return paths


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("root") / "root.pem"
    path.write_bytes(certificate("Root", ROOT_KEY, "Root", ROOT_KEY, authority=True))
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def drawn():
    """A picture and its report."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    policy = Policy()
    guard = GuardReport("fire", "c" * 64, policy, [True], [0.9], [0], [], [], 0.1, True, False)
    report = ImageReport(
        "redirected",
        "a burning é",
        "",
        1,
        0,
        7,
        "ddim",
        1,
        [1.0],
        7.5,
        "classifier-free",
        64,
        64,
        "redirect",
        "withhold",
        "before",
        None,
        [guard],
        "a" * 64,
    )
    return Image.fromarray(pixels), report.__class__(**{**report.__dict__, "image_sha256": image_digest(pixels)})


def test_what_was_signed_is_read_back(drawn, pair, root, tmp_path):
    path = tmp_path / "out.png"
    save_png(*drawn, path, Credentials.read(*pair))
    found = read_credentials(path, [root])
    assert (found.state, found.problems, found.signer) == ("trusted", [], "Studio, Signer")
    assert found.source_type == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert found.decision == {
        "verdict": "redirected",
        "on_unsafe": "redirect",
        "guards": [{"concept": "fire", "checkpoint_digest": "c" * 64, "off": False}],
        "manifest_digest": "a" * 64,
        "image_sha256": drawn[1].image_sha256,
    }
    assert str(found) == "trusted, signed by Studio, Signer, guard: redirected"
    # Picture and report are what they are without credentials, and no thumbnail was added.
    save_png(*drawn, tmp_path / "plain.png")
    assert read_png(path) == read_png(tmp_path / "plain.png")
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(drawn[0]))
    assert path.stat().st_size - (tmp_path / "plain.png").stat().st_size < 8000
    assert read_credentials(tmp_path / "plain.png") is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.png", "plain.png"]


def test_the_librarys_own_reader_agrees(drawn, pair, tmp_path):
    path = tmp_path / "out.png"
    save_png(*drawn, path, Credentials.read(*pair))
    with c2pa.Reader(str(path)) as reader:
        found = json.loads(reader.json())
    assert found["validation_state"] == "Valid"
    manifest = found["manifests"][found["active_manifest"]]
    assert manifest["claim_generator_info"][0]["name"] == "saferedir" and "thumbnail" not in manifest
    assert {assertion["label"] for assertion in manifest["assertions"]} == {"c2pa.actions.v2", "saferedir.guard"}


def test_a_signer_that_nobody_trusts(drawn, pair, tmp_path):
    path, other = tmp_path / "out.png", tmp_path / "other.pem"
    save_png(*drawn, path, Credentials.read(*pair))
    key = ec.generate_private_key(ec.SECP256R1())
    other.write_bytes(certificate("Root", key, "Root", key, authority=True))
    for trusted in ([], [other]):
        found = read_credentials(path, trusted)
        assert (found.state, found.problems) == ("valid", ["signingCredential.untrusted"])


@pytest.mark.parametrize("old, new", [(b'"redirected"', b'"safe"      '), (b"IEND", b"IENX")], ids=["report", "end"])
def test_a_changed_file_is_found_out(drawn, pair, root, tmp_path, old, new):
    path = tmp_path / "out.png"
    save_png(*drawn, path, Credentials.read(*pair))
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    assert read_credentials(path, [root]).state == "invalid"


def test_saved_again_there_are_none(drawn, pair, tmp_path):
    save_png(*drawn, tmp_path / "out.png", Credentials.read(*pair))
    Image.open(tmp_path / "out.png").save(tmp_path / "again.png")
    assert read_credentials(tmp_path / "again.png") is None
    (tmp_path / "text.png").write_text("no picture")
    assert read_credentials(tmp_path / "text.png").state == "invalid"


@pytest.mark.parametrize(
    "key, form",
    [
        (ec.generate_private_key(ec.SECP256R1()), PrivateFormat.TraditionalOpenSSL),  # as `openssl ecparam -genkey` writes it
        (ec.generate_private_key(ec.SECP384R1()), PrivateFormat.PKCS8),
        (ed25519.Ed25519PrivateKey.generate(), PrivateFormat.PKCS8),
        (rsa.generate_private_key(65537, 2048), PrivateFormat.TraditionalOpenSSL),
    ],
    ids=["P-256, traditional", "P-384", "Ed25519", "RSA"],
)
def test_kinds_of_keys(drawn, root, tmp_path, key, form):
    save_png(*drawn, tmp_path / "out.png", Credentials.read(*write_pair(tmp_path, key, form)))
    assert read_credentials(tmp_path / "out.png", [root]).state == "trusted"


def test_what_cannot_sign(pair, tmp_path):
    def made(name, *arguments, **options):
        (tmp_path / name).mkdir()
        return write_pair(tmp_path / name, *arguments, **options)

    (tmp_path / "text.pem").write_text("text")
    cases = [
        ((tmp_path / "none.pem", pair[1]), "none.pem, which cannot be read"),
        ((pair[0], tmp_path), "which cannot be read"),
        ((tmp_path / "text.pem", pair[1]), "expected a private key"),
        ((pair[1], pair[0]), "expected a private key"),
        ((pair[0], tmp_path / "text.pem"), "expected certificates"),
        ((made("other")[0], pair[1]), "expected a key and its certificate"),
        (made("server", usage=ExtendedKeyUsageOID.SERVER_AUTH), "expected a key and its certificate for signing documents"),
        (made("old", days=(-30, -1)), "expected a certificate that is valid now"),
        (made("future", days=(1, 30)), "expected a certificate that is valid now"),
        (made("koblitz", ec.generate_private_key(ec.SECP256K1())), "expected a key of P-256"),
    ]
    for files, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            Credentials.read(*files)
        assert "\n" not in str(caught.value)
    assert "PRIVATE" not in repr(Credentials.read(*pair))


def test_the_command(demo_engines, pair, root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["generate", "a burning blue square", "--engine-dir", str(demo_engines), "--num-inference-steps", "2", "--seed", "7"]
    assert main([*command, "--credentials", f"{pair[0]},{pair[1]}"]) == 0
    found = read_credentials("out.png", [root])
    assert found.state == "trusted" and found.decision["image_sha256"] == image_digest(np.asarray(Image.open("out.png")))
    assert found.decision["verdict"] == read_png("out.png")["verdict"]
    capsys.readouterr()
    for options, message in [
        (["--credentials", str(pair[0])], "expected KEY,CERT (two files)"),
        (["--credentials", f"{pair[0]},nowhere.pem"], "nowhere.pem, which cannot be read"),
        (["--credentials", f"{pair[0]},{pair[1]}", "--compare"], "a comparison is not signed"),
    ]:
        assert main([*command, *options]) == 2
        printed = capsys.readouterr().err
        assert message in printed and printed.count("\n") == 1  # before anything is generated


def test_without_the_library(drawn, pair, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    for call in (lambda: Credentials.read(*pair), lambda: read_credentials(tmp_path / "out.png")):
        with pytest.raises(InputError, match=r'pip install "saferedir\[credentials\]"'):
            call()
    save_png(*drawn, tmp_path / "out.png")
