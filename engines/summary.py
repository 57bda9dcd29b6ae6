"""What a folder of engines is, as a table, from its manifest alone: nothing is loaded."""

from __future__ import annotations

import dataclasses

from engines.backends.registry import ENGINE_FILES
from engines.manifest import PARITY_OF, Manifest
from engines.networks import NETWORKS
from engines.parity import worst
from engines.printable import printable
from engines.records import GuardRecord

EDITS = ("unet-weights", "text-encoder-weights", "lora")  # sources that were laid over the model's own weights


def summary(manifest: Manifest, digest: str, signature: str = "none") -> str:
    """Several lines of text; `digest` is the SHA-256 of the manifest's file, `signature` what is known of the folder's."""
    geometry = manifest.geometry
    rows = [
        ("model", manifest.model),
        ("manifest", f"SHA-256 {digest}"),
        ("signature", signature),
        ("backend", f"{manifest.backend}, {manifest.precision}, ONNX opset {manifest.opset}"),
        (
            "sizes",
            f"prompt width {geometry.embed_dim}, multiples of {geometry.scale_factor} pixels, "
            f"by default {geometry.default_height}x{geometry.default_width}",
        ),
        ("scheduler", str(manifest.scheduler.get("_class_name", ""))),
    ]
    rows += [
        (kind.replace("-", " "), f"{file}, SHA-256 {record.sha256}")
        for name, record in manifest.sources.items()
        for kind, _, file in (name.partition("/"),)
        if kind in EDITS
    ]
    if not manifest.guards:
        rows.append(("guard", "none: these engines only generate unguarded"))
    for guard in manifest.guards:
        rows += [
            ("guard", f"{guard.concept}, from {guard.checkpoint}, SHA-256 {guard.digest}"),
            (
                "policy",
                ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(guard.policy).items())
                + (", mask again" if guard.mask_again else ""),
            ),
            ("final check", "trusted" if guard.final_check else "not proven: a redirected picture can still be unsafe"),
            *_canaries(guard),
        ]
    if manifest.guards:
        rows.append(("check", manifest.check))
    built_for = {**vars(manifest.sizes), **({} if manifest.target is None else vars(manifest.target))}
    rows += [(name.replace("_", " "), str(value)) for name, value in built_for.items() if value not in ("", None)]
    if manifest.precision == "int8":
        compared = manifest.decisions is not None
        rows.append(
            ("decisions", str(manifest.decisions) if compared else "not compared with float32's in whole runs, only outputs were")
        )
    if manifest.optimized_for is not None:
        rows.append(("optimized for", manifest.optimized_for))
    rows += [
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
        ("command", manifest.command),
    ]
    lines = [f"{name:<20} {value}" for name, value in rows]
    lines += [
        "",
        f"parity of the {PARITY_OF[manifest.parity_of]}",
        *(f"compared on {device}" for device in sorted({*manifest.compared_on.values()})),
        f"{'network':<13} {'precision':<9} {'MB':>9}  {'cosine':>9}  {'error':>8}  file",
    ]
    lines += [
        f"{'':<23} {record.size / 1e6:9.2f}  {'':9}  {'':8}  {name}, SHA-256 {record.sha256}"
        for name, record in manifest.files.items()
        if "/" not in name
    ]
    for network in (*NETWORKS, "tokenizer"):
        figures = manifest.parity.get(network)
        for name, record in sorted(manifest.files_of(network).items()):
            is_model = name.split("/", 1)[1] in ENGINE_FILES
            parity = "{:9.6f}  {:8.1e}".format(*worst(figures)) if figures and is_model else f"{'':9}  {'':8}"
            precision = manifest.precision_of(network) if is_model else ""
            lines.append(f"{network:<13} {precision:<9} {record.size / 1e6:9.2f}  {parity}  {name}")
    return "\n".join(map(printable, lines))


def _canaries(guard: GuardRecord) -> list[tuple[str, str]]:
    """A row for each canary, with what the guard gave at the build."""
    if not guard.canaries:
        return [("canary", "no canaries: nothing shows that this guard works")]
    return [("canary", str(canary)) for canary in guard.canaries]
