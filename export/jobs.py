"""A build resolved into jobs: one for each network and one for the tokenizer, each with all that decides its files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from engines.backends.registry import BackendSpec, backend_spec
from engines.geometry import Geometry
from export.build_request import BuildRequest, Checkpoint
from export.code_digest import code_digest
from export.exported_networks import EXPORTED_NETWORKS, TOKENIZER, ExportedNetwork, ExportedTokenizer, resolve
from export.inputs import Inputs, source_name
from export.precision.names import OPSETS
from export.quantization import Quantization
from export.sources.component_rules import whole
from export.sources.edits import Edit, edits_of, source_names
from export.sources.model_folder import Source
from export.tensorrt.plan_builder import PlanOptions
from export.tensorrt.shape_profile import Profile

Recipe = dict[str, Any]
EDITS = "edits"  # in a recipe: the files that change a component after it is loaded
Report = Callable[[str], None]


def silent(line: str) -> None:
    """For what has been said already."""


@dataclass(frozen=True)
class PlanSettings:
    """How a network's ONNX file becomes a TensorRT plan."""

    profile: Profile
    options: PlanOptions
    keep_onnx: bool


@dataclass(frozen=True)
class NetworkJob:
    """One network to build.

    backend            that is to run it
    backend_precision  in which that backend is opened
    precision          what the network computes in
    embed_dim          D
    concepts           K
    module             makes the PyTorch module, weights loaded; it can be given what hears of names that were changed
    plan               None where the ONNX file is the engine
    decided_by         what decides the files besides code and precision, field by field
    """

    row: ExportedNetwork
    backend: BackendSpec
    backend_precision: str
    precision: str
    geometry: Geometry
    concepts: int
    module: Callable[..., Any]
    plan: PlanSettings | None
    decided_by: Recipe

    @property
    def name(self) -> str:
        return self.row.name

    @property
    def around(self) -> str:
        """The precision of the ONNX file, or of an int8 one where it is not int8: that of its scales, too, of which it has few."""
        if self.precision != "int8":
            return self.precision
        return "float32" if self.backend.lowers else self.backend.beside_int8

    @cached_property
    def recipe(self) -> Recipe:
        """Everything that decides the network's files, compared field by field to tell what must be built again."""
        return {
            **self.decided_by,
            "code": code_digest(*code_modules(self.row)),
            "precision": self.precision,
            "opset": OPSETS[self.around],
        }


@dataclass(frozen=True)
class TokenizerJob:
    """The tokenizer to convert. `load` gives the model's own."""

    row: ExportedTokenizer
    load: Callable[[], Any]
    decided_by: Recipe

    @property
    def name(self) -> str:
        return self.row.name

    @cached_property
    def recipe(self) -> Recipe:
        """See `NetworkJob.recipe`."""
        return {**self.decided_by, "code": code_digest(*code_modules(self.row))}


def code_modules(row: ExportedNetwork | ExportedTokenizer) -> tuple[str, ...]:
    """Modules that, with all that they import, decide a file: those that make it, and those that read what it is made of."""
    found = "export.sources.locate"
    if isinstance(row, ExportedTokenizer):
        return row.maker.split(":")[0], "export.sources.tokenizer_files", found
    of_component = () if row.component is None else ("export.sources.load", found)
    of_guard = ("export.sources.checkpoints",) if row.spec.of_guard else ()
    return "export.build_network", row.wrapper.split(":")[0], *of_component, *of_guard


Job = NetworkJob | TokenizerJob


def jobs_of(options: BuildRequest, inputs: Inputs) -> list[Job]:
    """The jobs of a build; engines without a guard lack the guard's networks."""
    jobs: list[Job] = [_tokenizer_job(inputs)]
    jobs += [_network_job(row, options, inputs) for row in EXPORTED_NETWORKS if options.checkpoints or not row.spec.of_guard]
    return jobs


def _tokenizer_job(inputs: Inputs) -> TokenizerJob:
    decided_by = {"versions": dict(inputs.versions), **inputs.digests(TOKENIZER.component)}
    return TokenizerJob(TOKENIZER, partial(_tokenizer, inputs.source), decided_by)


def _network_job(row: ExportedNetwork, options: BuildRequest, inputs: Inputs) -> NetworkJob:
    backend, geometry = backend_spec(options.backend), inputs.source.geometry
    edits = edits_of(options.edits, row.component)
    return NetworkJob(
        row=dataclasses.replace(row, spec=geometry.spec(row.name)),
        backend=backend,
        backend_precision=options.precision,
        precision=_precision(row, backend, options.precision, inputs.source),
        geometry=geometry,
        concepts=len(options.checkpoints),
        module=partial(_module, row, inputs.source, edits, options.checkpoints),
        plan=PlanSettings(Profile.of(inputs.sizes), options.plan, options.keep_onnx) if backend.plans else None,
        decided_by=_decided_by(row, edits, options, inputs),
    )


def _precision(row: ExportedNetwork, backend: BackendSpec, requested: str, source: Source) -> str:
    """What a network computes in; float32 where the backend lacks the half precision that the network needs.

    A backend that lowers computes all in what was requested, but for those that must stay float32.
    """
    if row.spec.float32_only or requested == "float32":
        return "float32"
    if requested == "int8":
        return requested if row.kept is not None else _precision(row, backend, backend.beside_int8, source)
    if backend.lowers or row.component is None:
        return requested
    half = row.half(requested, source.config(row.component))
    return half if half in backend.precisions else "float32"


def _decided_by(row: ExportedNetwork, edits: Sequence[Edit], options: BuildRequest, inputs: Inputs) -> Recipe:
    backend = backend_spec(options.backend)
    decided: Recipe = {
        "backend": backend.file_fields,
        "versions": dict(inputs.versions),
        "target": None if inputs.target is None else dataclasses.asdict(inputs.target),
        "sizes": dataclasses.asdict(inputs.sizes) if backend.plans else None,
    }
    if row.component is not None:
        decided |= inputs.digests(row.component)
    if edits:
        files = source_names(options.edits)
        decided[EDITS] = [
            {"kind": edit.kind, "file": edit.path.name, "sha256": inputs.sources[name].sha256, **edit.settings()}
            for name, edit in files.items()
            if edit in edits
        ]
    if row.kept is not None and options.quantization is not None:
        decided["quantization"] = _quantized_by(options, options.quantization, inputs)
    if row.spec.of_guard:
        decided["redirector"] = [inputs.sources[source_name(checkpoint)].sha256 for checkpoint in options.checkpoints]
        decided["mask_again"] = [checkpoint.mask_again for checkpoint in options.checkpoints]
    return decided


def _quantized_by(options: BuildRequest, quantization: Quantization, inputs: Inputs) -> Recipe:
    """Calibration and gate run whole pictures: all that these are made from decides."""
    return {
        **quantization.recipe(),
        "code": code_digest(*{row.wrapper.split(":")[0] for row in EXPORTED_NETWORKS}),
        "sources": {name: record.sha256 for name, record in inputs.sources.items()},
        "guards": [
            {"mask_again": checkpoint.mask_again, **dataclasses.asdict(checkpoint.policy)} for checkpoint in options.checkpoints
        ],
        "scheduler": inputs.source.scheduler,
        "sizes": dataclasses.asdict(inputs.sizes),
        "check": options.check,
    }


def _tokenizer(source: Source) -> Any:
    """The model's CLIPTokenizer."""
    from export.sources.tokenizer_files import load_tokenizer

    vocab_size = whole(source.config("text_encoder"), "vocab_size", source.path("text_encoder"))
    return load_tokenizer(source.files(TOKENIZER.component), vocab_size, source.pad_token)


def _of_file(say: Report, file: Path, line: str) -> None:
    say(f"{file}: {line}")


def _module(
    row: ExportedNetwork, source: Source, edits: Sequence[Edit], checkpoints: Sequence[Checkpoint], say: Report = silent
) -> Any:
    """The PyTorch module of a network, in eval mode."""
    wrapper = resolve(row.wrapper)
    if row.component is not None:
        from export.sources.load import load_component

        component = load_component(source, row.component, say)
        for edit in edits:
            edit.apply(component, row.component, partial(_of_file, say, edit.path))
        return wrapper(component).eval()
    if row.spec.of_guard:
        from export.sources.checkpoints import load_concept

        return wrapper(*(load_concept(checkpoint, source) for checkpoint in checkpoints)).eval()
    return wrapper().eval()
