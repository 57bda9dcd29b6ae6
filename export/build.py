"""Builds a folder of engines: what changed is exported and gated, what did not is kept, and the folder is swapped whole."""
from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.backend import open_backend
from engines.errors import InputError, ManifestError
from engines.manifest import FILE_NAME, FileRecord, Geometry, GuardRecord, Manifest, Policy, SourceRecord
from engines.specs import GUARD_NETWORKS, NETWORKS
from engines.store import MODEL_FILES, TOKENIZER, file_digest
from export.precision import OPSETS, network_precisions
from export.shape_profile import Profile, Span
from export.source import Source, record
from export.tensorrt_plan import MODULES, PlanOptions, build_plan, import_tensorrt

ROOT = Path(__file__).resolve().parent.parent
# The component of the model that each network is made from, and the code that decides how.
COMPONENT_OF = {"text_encoder": "text_encoder", "unet": "unet", "vae_decoder": "vae", "tokenizer": "tokenizer"}
CODE = ("export/onnx_file.py", "export/half_precision.py", "export/emulation.py", "export/networks.py", "export/parity.py",
        "engines/parity.py", "engines/specs.py")
PLAN_CODE = ("export/tensorrt_plan.py", "export/shape_profile.py")
GUARD_CODE = ("saferedir/guard.py", "saferedir/heads.py")
LIBRARIES = ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "tokenizers")


@dataclass(frozen=True)
class BuildOptions:
    """What to build. `redirector` None means engines without a guard, which only unguarded generation accepts.

    Raises:
        InputError: the backend cannot run in the precision.
    """

    model: str
    redirector: Path | None
    engine_dir: Path
    concept: str = ""
    backend: str = "onnxruntime"
    precision: str = "float32"
    batch_size: str = "1:1:4"  # sizes of TensorRT engines, MIN:OPT:MAX; None stands for the model's own
    height: str | None = None
    width: str | None = None
    plan: PlanOptions = PlanOptions()
    keep_onnx: bool = False
    mask_again: bool = False
    policy: Policy = Policy()
    force: bool = False

    def __post_init__(self) -> None:
        if self.backend == "onnxruntime" and self.precision != "float32":
            raise InputError(f"precision: expected float32 for onnxruntime on a CPU, found {self.precision}: it computes float16 "
                             "as float32 between casts, no faster, and bfloat16 not at all; for half precision choose "
                             f"--backend {' or '.join(MODULES)}")

    def profile(self, geometry: Geometry) -> Profile | None:
        """The shapes of TensorRT engines; None for ONNX Runtime, whose engines take any."""
        if self.backend not in MODULES:
            return None
        height, width = self.height or str(geometry.default_height), self.width or str(geometry.default_width)
        return Profile(Span.parse("batch-size", self.batch_size), Span.parse("height", height, geometry.size_multiple),
                       Span.parse("width", width, geometry.size_multiple))


Report = Callable[[str], None]


def build(options: BuildOptions, report: Report = print) -> Manifest:
    """Bring `options.engine_dir` up to date and return its manifest.

    A folder that is already what the options ask for is left alone. Otherwise the new one is made beside it and takes
    its place once every network has passed the parity gate; a failure leaves the previous engines as they were.

    Raises:
        InputError: the model, the checkpoint or an option cannot be used.
        ParityError: an exported network does not compute what PyTorch computes.
    """
    started, versions = time.monotonic(), _versions()
    source, previous = Source.locate(options.model), _previous(options.engine_dir)
    manifest = _plan(source, options, previous, versions)
    changes = ["--force"] if options.force else _changes(previous, manifest, options.engine_dir)
    if previous is not None and not changes:
        report(f"{options.engine_dir}: nothing changed, nothing to build")
        return previous
    if previous is not None:
        report(f"{options.engine_dir}: rebuilding because of " + "; ".join(changes))
    with _replacement(options.engine_dir) as folder:
        _fill(folder, source, options, manifest, None if options.force else previous, report)
    report(f"{options.engine_dir}: built in {time.monotonic() - started:.1f} s")
    return manifest


def _previous(folder: Path) -> Manifest | None:
    """The manifest of what is there; None for nothing, or for engines whose manifest cannot be read."""
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if found and FILE_NAME not in found:
        raise InputError(f"{folder}: expected an engine folder or none, found {found[0]!r} and no manifest; "
                         "choose another --engine-dir")
    try:
        return Manifest.read(folder)[0]
    except ManifestError:
        return None


def _plan(source: Source, options: BuildOptions, previous: Manifest | None, versions: dict[str, str]) -> Manifest:
    """The manifest of the build that is asked for, still without files and parity figures."""
    known = previous.sources if previous is not None and previous.model == options.model else {}
    sources: dict[str, SourceRecord] = {}
    recipe: dict[str, dict[str, Any]] = {}
    target = _target(options, options.profile(source.geometry))
    precisions = network_precisions(options.precision, source.config("unet"))
    common = {"backend": options.backend, "target": target,
              "code": _code_digest(CODE if not target else (*CODE, *PLAN_CODE)), "versions": versions}
    for network, component in COMPONENT_OF.items():
        records = {f"{component}/{path.name}": record(path, known.get(f"{component}/{path.name}"))
                   for path in source.files(component)}
        sources.update(records)
        recipe[network] = {**common, **{name: found.sha256 for name, found in records.items()}}
    recipe["sampler_step"] = {**common}
    guard = None
    if options.redirector is not None:
        if not options.redirector.is_file():
            raise InputError(f"{options.redirector}: expected a SafeRedir checkpoint, found no such file")
        sources["redirector"] = _redirector_record(options.redirector, previous)
        digest = sources["redirector"].sha256
        recipe["guard"] = {**common, "redirector": digest, "mask_again": options.mask_again,
                           "guard code": _code_digest(GUARD_CODE)}
        guard = GuardRecord(options.concept or options.redirector.stem, options.redirector.name, digest,
                            options.mask_again, options.policy)
    precisions = {network: precision for network, precision in precisions.items() if network in recipe}
    for network, precision in precisions.items():
        recipe[network] |= {"precision": precision, "opset": OPSETS[precision]}
    return Manifest(
        model=options.model, sources=sources, geometry=source.geometry, scheduler=source.scheduler, guard=guard,
        backend=options.backend, precision=options.precision, opset=max(OPSETS[precision] for precision in precisions.values()),
        versions=versions, files={}, parity={}, recipe=recipe, target={**target, **_half_notes(precisions)},
        command=" ".join(["python", *sys.argv]))


def _half_notes(precisions: dict[str, str]) -> dict[str, str]:
    """What the manifest says of networks in half precision; nothing where there are none."""
    if set(precisions.values()) == {"float32"}:
        return {}
    return {"network_precision": ", ".join(f"{network} {precision}" for network, precision in precisions.items()),
            "onnx_parity": "half precision emulated on a CPU: computed in float32, every half result rounded"}


def _target(options: BuildOptions, profile: Profile | None) -> dict[str, str]:
    """What TensorRT engines are tied to; nothing for ONNX Runtime."""
    if profile is None:
        return {}
    return {"library": f"{options.backend} {import_tensorrt(options.backend).__version__}",
            "batch_size": str(profile.batch), "height": str(profile.height), "width": str(profile.width),
            "compute_capabilities": ", ".join(options.plan.target_sm) or "portable", "kept_onnx": str(options.keep_onnx),
            "workspace_gib": str(options.plan.workspace_gib), "optimization_level": str(options.plan.optimization_level),
            "engine_parity": "pending: the ONNX files passed the gate, the engines have not met a GPU"}


def _redirector_record(path: Path, previous: Manifest | None) -> SourceRecord:
    same_file = previous is not None and previous.guard is not None and previous.guard.source == path.name
    return record(path, previous.sources.get("redirector") if previous is not None and same_file else None)


def _versions() -> dict[str, str]:
    """Versions of everything that shapes a build, found without importing any of it."""
    try:
        return {"python": sys.version.split()[0], **{name: importlib.metadata.version(name) for name in LIBRARIES}}
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(f"{error.name}: expected, for building engines, found it not installed; install it with: "
                         'pip install -c constraints.txt -e ".[export]"') from None


def _code_digest(files: tuple[str, ...]) -> str:
    return hashlib.sha256("".join(file_digest(ROOT / name) for name in files).encode()).hexdigest()


def _changes(previous: Manifest | None, planned: Manifest, folder: Path) -> list[str]:
    """What makes the folder differ from the plan, one phrase each."""
    if previous is None:
        return ["no engines yet"]
    changes = []
    for network in sorted({*previous.recipe, *planned.recipe}):
        old, new = previous.recipe.get(network), planned.recipe.get(network)
        if old is None or new is None:
            changes.append(f"{network} {'added' if old is None else 'dropped'}")
        elif old != new:
            fields = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            changes.append(f"{network} ({', '.join(fields)})")
        elif not _intact(previous, folder, network, digests=False):
            changes.append(f"{network} (files missing or altered)")
    for key in ("model", "precision", "geometry", "scheduler", "guard"):
        if getattr(previous, key) != getattr(planned, key):
            changes.append(key)
    return changes


def _intact(manifest: Manifest, folder: Path, network: str, digests: bool = True) -> bool:
    """Whether a network's files are as built: their sizes, and with `digests` their content."""
    files = manifest.files_of(network)
    return bool(files) and all(
        (path := folder / name).is_file() and path.stat().st_size == found.size
        and (not digests or file_digest(path) == found.sha256) for name, found in files.items())


@contextmanager
def _replacement(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place when the block ends, or vanishes when it fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    folder.chmod(0o755)
    retired = folder.with_name(folder.name + ".old")
    try:
        yield folder
        if target.exists():
            os.rename(target, retired)
        try:
            os.rename(folder, target)
        except BaseException:
            if retired.exists():
                os.rename(retired, target)
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)


def _fill(folder: Path, source: Source, options: BuildOptions, manifest: Manifest, previous: Manifest | None,
          report: Report) -> None:
    """Keep what the previous engines have of the recipe, build the rest, and write the manifest."""
    for number, network in enumerate(manifest.recipe, start=1):
        started, stage = time.monotonic(), f"[{number}/{len(manifest.recipe)}] {network:<13}"
        (folder / network).mkdir()
        if (previous is not None and previous.recipe.get(network) == manifest.recipe[network]
                and _intact(previous, options.engine_dir, network)):
            manifest.files.update(previous.files_of(network))
            for name in previous.files_of(network):
                _link(options.engine_dir / name, folder / name)
            manifest.parity.update({network: previous.parity[network]} if network in previous.parity else {})
            report(f"{stage} unchanged, kept")
        else:
            figures = _build_one(network, folder, source, options, manifest)
            manifest.files.update({path.relative_to(folder).as_posix(): FileRecord(file_digest(path), path.stat().st_size)
                                   for path in sorted((folder / network).iterdir())})
            report(f"{stage} {time.monotonic() - started:5.1f} s  {figures}")
    manifest.write(folder)


def _link(origin: Path, copy: Path) -> None:
    try:
        os.link(origin, copy)
    except OSError:  # file systems without hard links
        shutil.copyfile(origin, copy)


def _build_one(network: str, folder: Path, source: Source, options: BuildOptions, manifest: Manifest) -> str:
    """Export one network, pass it through the gate, and note its figures in the manifest."""
    if network == "tokenizer":
        from export.tokenizer import convert_tokenizer
        convert_tokenizer(source.load("tokenizer")).save(str(folder / TOKENIZER))
        return "ids equal to CLIPTokenizer's"
    path, spec, precision = folder / network / MODEL_FILES[0], NETWORKS[network], manifest.recipe[network]["precision"]
    manifest.parity[network] = _export(network, path, source, options, precision)
    if (profile := options.profile(source.geometry)) is not None:
        build_plan(import_tensorrt(options.backend), path, spec, profile, source.geometry, options.plan,
                   folder / network / MODEL_FILES[1])
        if not options.keep_onnx:
            for file in (path, path.with_name(path.name + ".data")):
                file.unlink(missing_ok=True)
    worst = manifest.worst_parity(network)
    assert worst is not None  # the gate has just given them
    return f"{precision}, parity: cosine {worst[0]:.6f}, largest error {worst[1]:.1e}"


def _export(network: str, path: Path, source: Source, options: BuildOptions, precision: str) -> dict[str, dict[str, float]]:
    """Write one network's ONNX file and hold it to PyTorch; its figures. The weights in memory are gone afterwards."""
    from export.emulation import emulate
    from export.onnx_file import export_network
    from export.parity import gate
    spec, backend, module = NETWORKS[network], open_backend("onnxruntime"), _module(network, source, options)
    export_network(module, spec, source.geometry.embed_dim, path, precision)
    if precision == "float32":
        return gate(module, backend.load(path, spec), backend, source.geometry)
    twin = emulate(path, precision)
    try:
        return gate(module, backend.load(twin, spec), backend, source.geometry, precision)
    finally:
        twin.unlink()


def _module(network: str, source: Source, options: BuildOptions) -> Any:
    from export import networks
    if network == "sampler_step":
        return networks.SamplerStep()
    if network in GUARD_NETWORKS:
        return _guard(source, options)
    wrapper = {"text_encoder": networks.TextEncoder, "unet": networks.Unet, "vae_decoder": networks.VaeDecoder}[network]
    return wrapper(source.load(COMPONENT_OF[network])).eval()


def _guard(source: Source, options: BuildOptions) -> Any:
    from saferedir.checkpoint import CheckpointError, load_redirector
    from saferedir.guard import Guard
    assert options.redirector is not None
    try:
        redirector = load_redirector(options.redirector)
    except CheckpointError as error:
        raise InputError(str(error)) from None
    if (found := redirector.config.embed_dim) != source.geometry.embed_dim:
        raise InputError(f"{options.redirector}: expected a checkpoint for prompt width {source.geometry.embed_dim} "
                         f"(text_encoder of {source.name}), found {found}")
    return Guard(redirector, options.mask_again).eval()

