"""One row for each thing that a build makes: beside the network's own row, what only the export must know of it.

Adding a network is a row in `engines.networks`, a row here and its wrapper.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engines.backends.registry import BackendSpec
from engines.networks import GUARD, SAMPLER_STEP, TEXT_ENCODER, TOKEN_MASK, UNET, VAE_DECODER, NetworkSpec

Config = Mapping[str, Any]  # of a component of the model, as parsed


def _float16(requested: str, config: Config) -> str:
    """The text encoder's values fit float16, which has three bits more than bfloat16."""
    return "float16"


def _bfloat16(requested: str, config: Config) -> str:
    """Some autoencoders have activations that exceed float16: the images turn black."""
    return "bfloat16"


def _as_upcast(requested: str, config: Config) -> str:
    """Attention logits of a model that sets `upcast_attention` exceed float16, as Stable Diffusion 2.1's do."""
    return "bfloat16" if config.get("upcast_attention") else requested


def _float32(requested: str, config: Config) -> str:
    return "float32"


def _unet(module: Any, backend: BackendSpec) -> Any:
    return module.for_inference()


def _guard(module: Any, backend: BackendSpec) -> Any:
    return module.for_inference(backend.winograd)


# Chosen on the demo (docs/precision.md). OpenVINO 2026.4 computes an int8 convolution wrongly whose input was quantised before a
# change of layout, as proj_out's is: with it the error of the whole UNet is six times as large.
_KEPT_OF_UNET = ("/time_embedding/", "/time_emb_proj/", "/conv_in/", "/conv_out/", "/conv_shortcut/", "/proj_out/")
# Those of an AutoencoderKL, and all of an AutoencoderTiny.
_KEPT_OF_DECODER = ("/post_quant_conv/", "/conv_in/", "/conv_out/", "/conv_shortcut/", "/attentions.0/", "/layers.")


@dataclass(frozen=True)
class ExportedNetwork:
    """A network to export.

    wrapper          "module:class" of the PyTorch module with the tensors of `spec`, and of what `Geometry.spec` may give instead;
                     it is given the model's component, or each of the guard's `saferedir.guard.Concept`s, or nothing
    component        of the model, whose files decide the network
    half             (requested precision, component's config) → what it computes in where plans in half precision are asked for
    kept             parts of names of nodes that `--precision int8` leaves as they are; None where the whole network stays so
    fused_attention  whether its attention may be one operator of ONNX Runtime (`export.attention`): for the UNet of Stable
                     Diffusion 1.5's size at 512x512, 0.88 of the time and 2 GB less; the others have few tokens, or one such layer
    for_inference    (module, backend) → what is exported in the module's place and compared with it
    forms            "module:function" from the network's precision to the forms that its layers are exported in, where the backend
                     wants them
    settle           "module:function" that changes random inputs of a recorded case so that no output depends on rounding
    """

    spec: NetworkSpec
    wrapper: str
    component: str | None = None
    half: Callable[[str, Config], str] = _float32
    kept: tuple[str, ...] | None = None
    fused_attention: bool = False
    for_inference: Callable[[Any, BackendSpec], Any] | None = None
    forms: str | None = None
    settle: str | None = None

    @property
    def name(self) -> str:
        return self.spec.name


@dataclass(frozen=True)
class ExportedTokenizer:
    """The tokenizer: no network, one file, made by "module:function" from the model's component."""

    name: str = "tokenizer"
    component: str = "tokenizer"
    maker: str = "export.tokenizer:convert_tokenizer"


TOKENIZER = ExportedTokenizer()
EXPORTED_NETWORKS = (
    ExportedNetwork(TEXT_ENCODER, "export.wrappers:TextEncoder", "text_encoder", half=_float16),
    ExportedNetwork(
        UNET,
        "export.wrappers:Unet",
        "unet",
        half=_as_upcast,
        kept=_KEPT_OF_UNET,
        fused_attention=True,
        for_inference=_unet,
        forms="export.rearranged:forms_of_unet",
    ),
    ExportedNetwork(
        VAE_DECODER,
        "export.wrappers:VaeDecoder",
        "vae",
        half=_bfloat16,
        kept=_KEPT_OF_DECODER,
        forms="export.rearranged:forms_of_decoder",
    ),
    ExportedNetwork(SAMPLER_STEP, "export.wrappers:SamplerStep"),
    ExportedNetwork(GUARD, "saferedir.guard:Guard", for_inference=_guard, settle="export.reference_cases:settle_guard"),
    ExportedNetwork(TOKEN_MASK, "saferedir.guard:TokenMask"),
)


def resolve(name: str) -> Any:
    """The object that "module:attribute" names. Rows contain names, so that reading them does not import PyTorch."""
    module, attribute = name.split(":")
    return getattr(importlib.import_module(module), attribute)
