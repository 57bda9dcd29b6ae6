"""The guard's numbers on a command line: for every concept, and for single ones."""

from __future__ import annotations

import pytest

from engines.errors import InputError
from engines.policy import OFF, Policy
from engines.policy_options import add_policy_arguments, given_policies
from saferedir.cli import Parser

DEFAULTS = {"fire": Policy(), "Van Gogh": Policy(threshold=0.2)}


def given(*arguments: str):
    parser = Parser()
    add_policy_arguments(parser, default="as built", may_be_off=True)
    return given_policies(parser.parse_args(arguments), DEFAULTS)


@pytest.mark.parametrize(
    "arguments, policies",
    [
        ((), {}),
        (("--replace-steps", "4"), {"fire": Policy(replace_steps=4), "Van Gogh": Policy(threshold=0.2, replace_steps=4)}),
        (("--policy", "fire:threshold=0.3"), {"fire": Policy(threshold=0.3)}),
        (("--policy=fire:threshold=.3,shift=conditional",), {"fire": Policy(threshold=0.3, shift="conditional")}),
        (
            ("--policy", "Van Gogh:alpha-scale=2", "--policy", "Van Gogh:replace-steps=0"),
            {"Van Gogh": Policy(threshold=0.2, alpha_scale=2, replace_steps=0)},
        ),
        (
            ("--final-threshold", "0.9", "--policy", "fire:final-threshold=0.8"),
            {"fire": Policy(final_threshold=0.8), "Van Gogh": Policy(threshold=0.2, final_threshold=0.9)},
        ),
        (
            ("--threshold", "0.4", "--policy", "fire:threshold=0.3"),
            {"fire": Policy(threshold=0.3), "Van Gogh": Policy(threshold=0.4)},
        ),
        (("--threshold", "0.4", "--policy", "fire:off"), {"fire": OFF, "Van Gogh": Policy(threshold=0.4)}),
    ],
    ids=str,
)
def test_what_was_given(arguments, policies):
    assert given(*arguments) == policies


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--policy", "fire"), "--policy: expected CONCEPT:NAME=VALUE.* or CONCEPT:off, found 'fire'"),
        (("--policy", "smoke:off"), "--policy: expected a concept of fire, Van Gogh, found 'smoke'"),
        (("--policy", "fire:"), "expected NAME=VALUE, NAME of alpha-scale, .*, or off, found ''"),
        (("--policy", "fire:alpha_scale=1"), "NAME of alpha-scale, threshold, .* found 'alpha_scale=1'"),
        (("--policy", "fire:threshold"), "threshold: expected a number, found ''"),
        (("--policy", "fire:replace-steps=1.5"), "replace-steps: expected a number, found '1.5'"),
        (("--policy", "fire:threshold=1"), "threshold: expected a probability"),
        (("--policy", "fire:shift=none"), "shift: expected both or conditional"),
        (("--policy", "fire:off,threshold=0.3"), "--policy: expected fire off or with numbers, found both"),
        (("--policy", "fire:off", "--policy", "fire:off"), "expected 'off' once for fire, found it twice"),
        (("--policy", "fire:threshold=0.3", "--policy", "fire:threshold=0.3"), "expected 'threshold=0.3' once for fire"),
    ],
    ids=str,
)
def test_everything_else_is_one_error(arguments, message):
    with pytest.raises(InputError, match=message):
        given(*arguments)
