"""A recurrence is linear, and images of a batch go their own ways."""

import numpy as np
import pytest

from runtime.samplers.recurrence import Batch, Recurrence, apply_row
from runtime.samplers.registry import SAMPLERS, recurrence
from runtime.samplers.schedules import SchedulerConfig
from tests.runtime.parity import STABLE_DIFFUSION_1

SCHEDULE = SchedulerConfig.read(STABLE_DIFFUSION_1)
IMAGE = (4, 3, 3)
MIXED = [("ddim", 5), ("pndm", 8), ("lms", 6), ("pndm", 1), ("ddim", 12), ("lms", 2)]


def noisy(rows: int, wants: list[int], slots: int = 2) -> Recurrence:
    """Random matrices in which the rows in `wants` alone take noise."""
    matrices = np.random.default_rng(rows).uniform(-0.5, 0.5, (rows, slots + 1, slots + 2))
    matrices[[row for row in range(rows) if row not in wants], :, -1] = 0
    return Recurrence("noisy", np.arange(rows)[::-1] * 10, matrices, 2.0, 0.25)


def mixed() -> list[Recurrence]:
    return [*(recurrence(name, steps, SCHEDULE) for name, steps in MIXED), noisy(4, [1, 2])]


def draws(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Initial noise [1, …]; what the model adds, and noise, [rows, 1, …]. The first rows are the same for any number of them."""
    rng = np.random.default_rng(seed)
    start, *rest = rng.standard_normal((1 + 2 * rows, 1, *IMAGE)).astype(np.float32)
    return start, np.array(rest[::2]), np.array(rest[1::2])


def run(timesteps, matrices, sigma, scale, seed: int) -> np.ndarray:
    """States [R, S, 1, …] of one image whose stand-in model depends on model input and timestep."""
    start, push, noise = draws(seed, len(matrices))
    state = np.zeros((matrices.shape[1] - 1, 1, *IMAGE), np.float32)
    state[0] = sigma * start
    model_input, states = scale * state[0], []
    for row, matrix in enumerate(matrices):
        output = np.tanh(model_input + push[row]) * np.float32(np.cos(timesteps[row] / 300))
        state, model_input = apply_row(matrix, state, output, noise[row])
        states.append(state)
    return np.array(states)


def test_a_row_does_as_its_matrix_says():
    rng = np.random.default_rng(0)
    matrix, state = rng.standard_normal((4, 5)), rng.standard_normal((3, 2, *IMAGE))
    output, noise = rng.standard_normal((2, 2, *IMAGE))
    following, model_input = apply_row(matrix, state, output, noise)
    columns = [*state, output, noise]
    for weights, found in zip(matrix, [*following, model_input], strict=True):
        np.testing.assert_allclose(found, sum(weight * column for weight, column in zip(weights, columns, strict=True)))


def test_noise_and_history_move_as_a_matrix_lays_out():
    """A solver of order 3 in samples and in ε = p·x + q·m, with slots for two past ones of each, newest first."""
    rng = np.random.default_rng(0)
    x, m, noise = rng.standard_normal((3, 2, *IMAGE))
    history_x, history_eps = rng.standard_normal((2, 2, *IMAGE)), rng.standard_normal((2, 2, *IMAGE))
    p, q, s, c_next, a, b = 0.3, 0.7, 0.2, 0.5, np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])
    now, before, earlier, eps_before, eps_earlier, output, xi = np.eye(7)
    eps_now = p * now + q * output
    following = a @ [now, before, earlier] + b @ [eps_now, eps_before, eps_earlier] + s * xi
    matrix = np.array([following, now, before, eps_now, eps_before, c_next * following])

    state, model_input = apply_row(matrix, np.stack([x, *history_x, *history_eps]), m, noise)
    eps = p * x + q * m
    expected = a[0] * x + a[1] * history_x[0] + a[2] * history_x[1] + s * noise
    expected += b[0] * eps + b[1] * history_eps[0] + b[2] * history_eps[1]
    np.testing.assert_allclose(state[0], expected)
    np.testing.assert_allclose(model_input, c_next * expected)
    np.testing.assert_array_equal(state[1:3], np.stack([x, history_x[0]]))
    np.testing.assert_allclose(state[3], eps)
    np.testing.assert_array_equal(state[4], history_eps[0])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_is_linear_in_its_noise_and_its_outputs(name):
    """Superposition: the run of a sum is the sum of the runs."""
    ours = recurrence(name, 7, SCHEDULE)
    rng = np.random.default_rng(0)

    def states(start: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        state = np.zeros((ours.slots, 1, *IMAGE))
        state[0] = start
        found = []
        for matrix, output in zip(ours.matrices.astype(np.float64), outputs, strict=True):
            state, model_input = apply_row(matrix, state, output, np.zeros((1, *IMAGE)))
            found.append([*state, model_input])
        return np.array(found)

    starts, outputs = rng.standard_normal((2, 1, *IMAGE)), rng.standard_normal((2, ours.rows, 1, *IMAGE))
    together = states(2 * starts[0] - 3 * starts[1], 2 * outputs[0] - 3 * outputs[1])
    apart = 2 * states(starts[0], outputs[0]) - 3 * states(starts[1], outputs[1])
    np.testing.assert_allclose(together, apart, rtol=1e-9, atol=1e-9)


def test_a_single_image_is_its_own_batch():
    for ours in mixed():
        batch = Batch.of([ours])
        assert np.array_equal(batch.timesteps[:, 0], ours.timesteps)
        assert np.array_equal(batch.matrices[:, 0], ours.matrices)
        assert np.array_equal(batch.noisy, ours.noisy)
        assert (batch.slots, batch.rows.tolist()) == (ours.slots, [ours.rows])


def test_a_mixed_batch_equals_single_runs():
    singles = mixed()
    batch = Batch.of(singles)
    assert batch.timesteps.shape == (12, 7) and batch.matrices.shape == (12, 7, 5, 6)
    assert batch.timesteps.dtype == batch.matrices.dtype == batch.init_noise_sigma.dtype == batch.input_scale.dtype == np.float32
    assert batch.rows.tolist() == [5, 9, 6, 1, 12, 2, 4]
    for image, ours in enumerate(singles):
        alone = run(ours.timesteps, ours.matrices, np.float32(ours.init_noise_sigma), np.float32(ours.input_scale), image)
        among = run(
            batch.timesteps[:, image], batch.matrices[:, image], batch.init_noise_sigma[image], batch.input_scale[image], image
        )
        np.testing.assert_allclose(among[: ours.rows, : ours.slots], alone, rtol=1e-5, atol=1e-5)
        assert not among[:, ours.slots :].any(), "padded slots"
        assert (among[ours.rows :] == among[ours.rows - 1]).all(), "a resting image"


def test_a_resting_image_stays_at_its_last_timestep_and_shows_its_sample():
    ours = recurrence("lms", 2, SCHEDULE)
    batch = Batch.of([ours, recurrence("pndm", 8, SCHEDULE)])
    assert batch.timesteps[:, 0].tolist() == [ours.timesteps[0], *[ours.timesteps[1]] * 8]
    rng = np.random.default_rng(0)
    state, (output, noise) = rng.standard_normal((4, 1, *IMAGE)), rng.standard_normal((2, 1, *IMAGE))
    for row in range(ours.rows, len(batch.timesteps)):
        following, model_input = apply_row(batch.matrices[row, 0], state, output, noise)
        assert np.array_equal(following, state) and np.array_equal(model_input, state[0])


def test_rows_that_want_noise():
    assert noisy(4, [1, 3]).noisy.tolist() == [False, True, False, True]
    batch = Batch.of([recurrence("ddim", 6, SCHEDULE), noisy(4, [1, 3]), noisy(5, [3, 4])])
    assert batch.noisy.tolist() == [False, True, False, True, True, False]
    assert batch.noisy.dtype == bool


def test_a_batch_is_read_only():
    batch = Batch.of(mixed())
    for name in ("timesteps", "matrices", "init_noise_sigma", "input_scale", "rows"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(batch, name)[0] = 0
