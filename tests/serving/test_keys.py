"""The file of API keys."""

from __future__ import annotations

import base64

import pytest

from engines.errors import InputError
from runtime.serving.errors import AuthenticationError
from runtime.serving.keys import ApiKeys

KEY, ADMIN = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture
def file(tmp_path):
    def write(text: str):
        (tmp_path / "keys").write_text(text, encoding="utf-8")
        return tmp_path / "keys"

    return write


def headers(authorization: str) -> dict[str, str]:
    return {"authorization": authorization}


def basic(key: str) -> str:
    return "Basic " + base64.b64encode(f"user:{key}".encode()).decode()


def test_who_calls(file):
    keys = ApiKeys(file(f"\n# people\nalice {KEY}\nadmin\t{ADMIN}\n"))
    assert keys.name_of(headers(f"Bearer {KEY}")) == keys.name_of(headers(basic(KEY))) == "alice"
    keys.require_admin(headers(f"bearer {ADMIN}"))
    for wrong in ("", "Bearer", "Bearer ", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", f"Basic {KEY}", "Basic ä", f"Token {KEY}", KEY):
        with pytest.raises(AuthenticationError):
            keys.name_of(headers(wrong))
    with pytest.raises(AuthenticationError, match="expected the key named admin"):
        keys.require_admin(headers(f"Bearer {KEY}"))


def test_without_a_file_everybody_may_draw_and_nobody_is_the_admin():
    keys = ApiKeys(None)
    assert keys.name_of({}) == "" and not keys.required
    with pytest.raises(AuthenticationError):
        keys.require_admin(headers(f"Bearer {ADMIN}"))


@pytest.mark.parametrize(
    "text, message",
    [
        (f"alice {KEY} more", "line 1: expected NAME KEY"),
        (f"\n{KEY}", "line 2: expected NAME KEY"),
        ("alice short", "line 1: expected NAME KEY"),
        (f"alice {KEY}\nalice {ADMIN}", "line 2: expected a new name and key, found 'alice'"),
        (f"alice {KEY}\nbob {KEY}", "line 2: expected a new name and key, found 'bob'"),
        ("# nobody", "expected a key or more, found none"),
    ],
)
def test_a_wrong_file_is_an_error_that_holds_no_key(file, text, message):
    with pytest.raises(InputError) as caught:
        ApiKeys(file(text))
    assert message in str(caught.value) and KEY not in str(caught.value) and "short" not in str(caught.value)
