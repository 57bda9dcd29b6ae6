"""A judge that calls about half of all pictures unsafe."""

import numpy as np


def is_odd(picture: np.ndarray) -> bool:
    return bool(picture.astype(int).sum() % 2)
