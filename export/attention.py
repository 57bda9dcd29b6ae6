"""Attention as one operator of ONNX Runtime, which never has the scores of all queries and keys in memory at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

DOMAIN, OPERATOR = "com.microsoft", "MultiHeadAttention"
_attention = torch.nn.functional.scaled_dot_product_attention


class _MultiHeadAttention(torch.autograd.Function):
    """Query [B, S, heads·d], key and value [B, T, heads·d] → [B, S, heads·d], as ONNX Runtime's operator lays them out."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        parts = (tensor.unflatten(2, (heads, -1)).transpose(1, 2) for tensor in (query, key, value))
        return _attention(*parts).transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(graph: Any, query: Any, key: Any, value: Any, heads: int) -> Any:
        """The node that the exporter writes. It has the query's shape, whose traced sizes would be taken for constants."""
        result = graph.op(f"{DOMAIN}::{OPERATOR}", query, key, value, num_heads_i=heads)
        result.setType(query.type().with_sizes([None, None, None]))
        return result


def _fused(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
    """As torch's function. A call with a mask, dropout or a scale of its own goes to torch."""
    if any(isinstance(option, Tensor) or option for option in (*rest, *options.values())):
        return _attention(query, key, value, *rest, **options)
    heads = int(query.shape[1])
    joined = (tensor.transpose(1, 2).flatten(2) for tensor in (query, key, value))
    return _MultiHeadAttention.apply(*joined, heads).unflatten(2, (heads, -1)).transpose(1, 2)  # type: ignore[no-untyped-call]


@contextmanager
def fused_attention() -> Iterator[None]:
    """Within the block, torch's attention is exported as ONNX Runtime's operator (source: its ContribOperators.md)."""
    torch.nn.functional.scaled_dot_product_attention = _fused
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = _attention
