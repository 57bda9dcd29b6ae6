"""A seed's noise equals torch's CPU stream, draw after draw."""

import numpy as np
import pytest
import torch

from engines.noise import NormalStream

SHAPES = [
    (),
    (0,),
    *[(n,) for n in range(1, 50)],
    (1, 4, 16, 16),
    (3, 5, 7, 11),
    (2, 4, 65, 63),
    (4, 64, 64),
    (4, 128, 96),
]


def randn(seed: int, shape) -> np.ndarray:
    return NormalStream(seed).draw(shape)


def torch_randn(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)).numpy()


@pytest.mark.parametrize("seed", [0, 1, 7, 2**32 - 1, 2**32, 2**32 + 7, 2**64 - 1, -1, -5, -(2**63)])
def test_equals_torch(seed):
    for shape in SHAPES:
        ours, theirs = randn(seed, shape), torch_randn(seed, shape)
        assert ours.dtype == np.float32 and ours.shape == shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-6, err_msg=f"shape {shape}")


@pytest.mark.parametrize("sizes", [range(1, 16), (1, 2, 3, 5), (15, 16, 17, 31, 32), range(50)], ids=str)
def test_continues_as_torch(sizes):
    """A small draw leaves the second normal of a pair to the next small draw, past any large ones between."""
    rng = np.random.default_rng(0)
    for seed in range(40):
        stream, generator = NormalStream(seed), torch.Generator().manual_seed(seed)
        drawn = rng.choice(sizes, 30).tolist()
        for place, size in enumerate(drawn):
            ours, theirs = stream.draw((size,)), torch.randn(size, generator=generator).numpy()
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-6, err_msg=f"seed {seed}, draws {drawn[: place + 1]}")


def test_continues_a_run_of_latents():
    stream, generator = NormalStream(7), torch.Generator().manual_seed(7)
    for shape in ((4, 64, 64), (4, 65, 63), (4, 64, 64)):
        np.testing.assert_allclose(stream.draw(shape), torch.randn(shape, generator=generator), rtol=0, atol=3e-6)


def test_streams_of_one_seed_are_apart():
    first, second = NormalStream(7), NormalStream(7)
    first.draw((3,))
    assert np.array_equal(second.draw((4, 8, 8)), randn(7, (4, 8, 8)))


def test_what_is_drawn_is_the_callers():
    stream, other = NormalStream(7), NormalStream(7)
    stream.draw((3,)).fill(0)
    other.draw((3,))
    assert np.array_equal(stream.draw((3,)), other.draw((3,)))


def test_only_the_low_32_bits_of_a_seed_count():
    assert np.array_equal(randn(7, (4, 8, 8)), randn(2**32 + 7, (4, 8, 8)))
    assert not np.array_equal(randn(7, (4, 8, 8)), randn(8, (4, 8, 8)))


def test_accepts_lists_and_numpy_integers():
    assert np.array_equal(randn(np.int64(3), [4, 8, 8]), randn(3, (4, 8, 8)))


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_refuses_the_seeds_that_torch_refuses(seed):
    with pytest.raises(ValueError):
        torch_randn(seed, (4,))
    with pytest.raises(ValueError, match=str(seed)):
        randn(seed, (4,))


def test_refuses_a_seed_that_is_no_integer():
    with pytest.raises(TypeError):
        randn(1.0, (4,))  # type: ignore[arg-type]
