"""Names of precisions, and the opset that each needs. Which network computes in which is in its row, `export.exported_networks`."""

from __future__ import annotations

from engines.errors import InputError
from engines.networks import OPSET

SHORT_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
# 22 is the first whose Conv takes bfloat16. Of the operators exported here, only the accepted dtypes differ between the two.
OPSETS = {"float32": OPSET, "float16": OPSET, "bfloat16": 22}
PRECISIONS = (*OPSETS, "int8")  # int8 stands in files of another precision


def precision_name(text: str) -> str:
    """float32, float16, bfloat16 or int8 for that name or its short form.

    Raises:
        InputError: neither.
    """
    name = SHORT_NAMES.get(text, text)
    if name not in PRECISIONS:
        raise InputError(f"precision: expected one of {', '.join([*PRECISIONS, *SHORT_NAMES])}, found {text!r}")
    return name
