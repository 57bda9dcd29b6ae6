"""One row for each network: its tensors, how often it runs, and what makes it.

ONNX axes, optimisation profiles, example inputs, buffers and error messages follow from these rows. What only the export must
know of a network stands beside its row in `export.exported_networks`.

Symbols: B images; CB = C·B rows of text with C = 2 under classifier-free guidance (unconditional rows first, then conditional),
else 1; H, W latent height and width; PH = f·H, PW = f·W picture height and width; D prompt width; K concepts that the guard
forgets; S slots of the sampler's state, S+1 and S+2 sides of its matrix; G width of the guidance embedding. `finite` tells for
each image whether a network's result was free of NaN and infinity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from engines.errors import InputError

# The first opset with the current form of every operator used here; torch.onnx writes it without converting, TensorRT 10 reads it.
OPSET = 18
TOKENS = 77
LATENT_CHANNELS = 4
NOT_CHECKED = -1.0  # the guard's p_unsafe of an image whose countdown was running
NEVER = 2**30  # a countdown that no run ends: of a concept that is off
SLOTS = (1, 4, 8)  # of sampler state that engines take: fewest, usual, most
OF_THE_MODEL = frozenset({"D", "G", "K"})  # symbols whose number is fixed when the engines are built

Runs = Literal["call", "step", "unsafe"]


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a network.

    dims    numbers or symbols
    span    smallest and largest of the values that a model sees; None for standard normal ones, bools and outputs
    varies  an output that no sensible input makes constant
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...]
    span: tuple[float, float] | None = None
    varies: bool = False

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Concrete shape under `sizes`, a number for each symbol."""
        return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in self.dims)

    @property
    def dynamic_axes(self) -> dict[int, str]:
        """Axes whose size may differ from call to call, with their symbols."""
        return {axis: dim for axis, dim in enumerate(self.dims) if isinstance(dim, str) and dim not in OF_THE_MODEL}

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
    """One network.

    inputs, outputs  its tensors, in order
    runs             "call": once for a call of the pipeline; "step": at every step; "unsafe": once for a call in which an image
                     was unsafe
    of_guard         whether it is made from SafeRedir checkpoints; else from the model, or without weights
    float32_only     whether it computes in float32 whatever the precision of the others
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    runs: Runs
    of_guard: bool = False
    float32_only: bool = False

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        return self.inputs + self.outputs


def with_derived(sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes with every symbol that follows from others: CB from B and C, S+1 and S+2 from S, PH and PW from H, W and f."""
    derived = dict(sizes)
    if {"B", "C"} <= sizes.keys():
        derived["CB"] = sizes["C"] * sizes["B"]
    if "S" in sizes:
        derived |= {"S+1": sizes["S"] + 1, "S+2": sizes["S"] + 2}
    if {"H", "W", "f"} <= sizes.keys():
        derived |= {"PH": sizes["f"] * sizes["H"], "PW": sizes["f"] * sizes["W"]}
    return derived


def _float(name: str, *dims: int | str, span: tuple[float, float] | None = None, varies: bool = False) -> TensorSpec:
    return TensorSpec(name, "float32", dims, span, varies)


_LATENT = (LATENT_CHANNELS, "H", "W")
_EMBEDS = ("CB", TOKENS, "D")
_TIMESTEP = (0.0, 999.0)

TEXT_ENCODER = NetworkSpec(
    "text_encoder",
    # The first ids of every CLIP vocabulary are its bytes.
    inputs=(
        TensorSpec("input_ids", "int64", ("CB", TOKENS), span=(0, 255)),
        TensorSpec("clip_skip", "int64", ("CB",), span=(0, 1)),
    ),
    outputs=(_float("text_embeddings", *_EMBEDS, varies=True),),
    runs="call",
)
UNET = NetworkSpec(
    "unet",
    inputs=(
        _float("sample", "B", *_LATENT),
        _float("timestep", "B", span=_TIMESTEP),
        _float("encoder_hidden_states", *_EMBEDS),
    ),
    outputs=(_float("noise_pred", "CB", *_LATENT, varies=True),),
    runs="step",
)
# Of a model distilled with its guidance: the guidance scale's embedding is an input, under the name that diffusers gives it.
GUIDED_UNET = replace(UNET, inputs=(*UNET.inputs, _float("timestep_cond", "B", "G", span=(-1, 1))))
GUARD = NetworkSpec(
    "guard",
    inputs=(
        _float("sample", "B", *_LATENT),
        _float("timestep", "B", span=_TIMESTEP),
        _float("original_embeds", *_EMBEDS),
        _float("shifts", "K", *_EMBEDS),
        TensorSpec("countdown", "int32", ("K", "B"), span=(0, 2)),
        _float("alpha_scale", "K", "CB", span=(0, 1)),
        _float("threshold", "K", "B", span=(0, 1)),
        TensorSpec("replace_steps", "int32", ("K", "B"), span=(0, 2)),
        TensorSpec("delayed", "bool", ("B",)),
    ),
    outputs=(
        _float("next_embeds", *_EMBEDS),
        _float("next_shifts", "K", *_EMBEDS),
        TensorSpec("next_countdown", "int32", ("K", "B")),
        _float("p_unsafe", "K", "B"),
        TensorSpec("unsafe", "bool", ("K", "B")),
    ),
    runs="step",
    of_guard=True,
    # In two of six recorded traces it decided otherwise than the reference when its arithmetic was bfloat16, and in one when its
    # convolutions were float16.
    float32_only=True,
)
TOKEN_MASK = NetworkSpec(
    "token_mask",
    inputs=(_float("embeds", "B", TOKENS, "D"),),
    outputs=(_float("token_mask", "K", "B", TOKENS),),
    runs="unsafe",
    of_guard=True,
    float32_only=True,
)
SAMPLER_STEP = NetworkSpec(
    "sampler_step",
    inputs=(
        _float("state", "S", "B", *_LATENT),
        _float("noise_pred", "CB", *_LATENT),
        _float("noise", "B", *_LATENT),
        _float("matrix", "B", "S+1", "S+2"),
        _float("guidance_scale", "B", span=(0, 1)),
    ),
    outputs=(
        _float("next_state", "S", "B", *_LATENT),
        _float("next_model_input", "B", *_LATENT),
        TensorSpec("finite", "bool", ("B",)),
    ),
    runs="step",
    float32_only=True,  # it adds up small differences
)
VAE_DECODER = NetworkSpec(
    "vae_decoder",
    inputs=(_float("latent", "B", *_LATENT),),
    outputs=(TensorSpec("images", "uint8", ("B", "PH", "PW", 3), varies=True), TensorSpec("finite", "bool", ("B",))),
    runs="call",
)

NETWORKS = {spec.name: spec for spec in (TEXT_ENCODER, UNET, GUARD, TOKEN_MASK, SAMPLER_STEP, VAE_DECODER)}
GUARD_NETWORKS = tuple(name for name, spec in NETWORKS.items() if spec.of_guard)
