"""The networks: names, dtypes and symbolic dimensions, declared once.

ONNX axes, optimisation profiles, example inputs, buffers and error messages derive from this table.

Symbols: B images; CB = C·B rows with C = 2 under classifier-free guidance (unconditional rows first, then
conditional), else 1; H, W latent height and width; D prompt width; HX, HE depth of the sampler's sample and
prediction history; R = HX + HE + 6 coefficients; PH, PW picture height and width. `finite` tells for each image
whether a network's result was free of NaN and infinity. The guard runs at every step; `token_mask` explains it, from the
prompt alone, and runs once for a call in which an image was unsafe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engines.errors import InputError

# The first opset with every operator of ours in today's form, and what torch.onnx writes without converting; TensorRT 10 reads it.
OPSET = 18
TOKENS = 77
LATENT_CHANNELS = 4
NOT_CHECKED = -1.0  # the guard's p_unsafe of an image whose countdown was running


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a network; `dims` are numbers or symbols."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Concrete shape under `sizes`, a number for each symbol."""
        return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in self.dims)

    @property
    def dynamic_axes(self) -> dict[int, str]:
        """Axes whose size may differ from call to call, with their symbols; D is the model's own."""
        return {axis: dim for axis, dim in enumerate(self.dims) if isinstance(dim, str) and dim != "D"}

    def check(self, network: str, dtype: str, shape: tuple[int, ...]) -> None:
        """Raise InputError unless a tensor of this dtype and shape fits."""
        fits = len(shape) == len(self.dims) and all(
            isinstance(dim, str) or dim == size for dim, size in zip(self.dims, shape, strict=False)
        )
        if dtype != self.dtype or not fits:
            expected = ", ".join(str(dim) for dim in self.dims)
            raise InputError(f"{network}.{self.name}: expected {self.dtype} [{expected}], found {dtype} {list(shape)}")


@dataclass(frozen=True)
class NetworkSpec:
    """One network's inputs and outputs, in order."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        return self.inputs + self.outputs


def _float(name: str, *dims: int | str) -> TensorSpec:
    return TensorSpec(name, "float32", dims)


_LATENT = (LATENT_CHANNELS, "H", "W")

NETWORKS = {
    spec.name: spec
    for spec in (
        NetworkSpec(
            "text_encoder", (TensorSpec("input_ids", "int64", ("CB", TOKENS)),), (_float("text_embeddings", "CB", TOKENS, "D"),)
        ),
        NetworkSpec(
            "unet",
            (_float("sample", "CB", *_LATENT), _float("timestep"), _float("encoder_hidden_states", "CB", TOKENS, "D")),
            (_float("noise_pred", "CB", *_LATENT),),
        ),
        NetworkSpec(
            "guard",
            (
                _float("sample", "B", *_LATENT),
                _float("timestep"),
                _float("embeds", "CB", TOKENS, "D"),
                _float("original_embeds", "CB", TOKENS, "D"),
                TensorSpec("countdown", "int32", ("B",)),
                _float("alpha_scale"),
                _float("threshold"),
                TensorSpec("replace_steps", "int32", ()),
            ),
            (_float("next_embeds", "CB", TOKENS, "D"), TensorSpec("next_countdown", "int32", ("B",)), _float("p_unsafe", "B")),
        ),
        NetworkSpec("token_mask", (_float("embeds", "B", TOKENS, "D"),), (_float("token_mask", "B", TOKENS),)),
        NetworkSpec(
            "sampler_step",
            (
                _float("sample", "B", *_LATENT),
                _float("noise_pred", "CB", *_LATENT),
                _float("noise", "B", *_LATENT),
                _float("history_x", "HX", "B", *_LATENT),
                _float("history_eps", "HE", "B", *_LATENT),
                _float("coefficients", "R"),
                _float("guidance_scale"),
            ),
            (
                _float("next_sample", "B", *_LATENT),
                _float("next_history_x", "HX", "B", *_LATENT),
                _float("next_history_eps", "HE", "B", *_LATENT),
                _float("next_model_input", "CB", *_LATENT),
                TensorSpec("finite", "bool", ("B",)),
            ),
        ),
        NetworkSpec(
            "vae_decoder",
            (_float("latent", "B", *_LATENT),),
            (TensorSpec("images", "uint8", ("B", "PH", "PW", 3)), TensorSpec("finite", "bool", ("B",))),
        ),
    )
}
GUARD_NETWORKS = ("guard", "token_mask")  # made from the SafeRedir checkpoint
# Whatever the precision of the others. The guard decided otherwise than the reference in two of six recorded traces when its
# arithmetic was bfloat16, and in one when its convolutions were float16; a sampler step adds up small differences.
ALWAYS_FLOAT32 = frozenset({*GUARD_NETWORKS, "sampler_step"})
# Of the sampler tables: DDIM's is the shortest, PNDM's the longest.
SHORTEST_HISTORY = {"HX": 1, "HE": 1, "R": 8}
LONGEST_HISTORY = {"HX": 1, "HE": 4, "R": 11}
