"""What a LoRA file says of itself: sai_model_spec, the keys that hosts show, and our own complete record."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from ..diffusion.model import DiffusionModel

SPEC_KEY, SPECS_KEY, RESULT_KEY, LOSSES_KEY = "sage.spec", "sage.specs", "sage.result", "sage.losses"


LEFT_KEY, CHECK_KEY, COST_KEY = "sage.left", "sage.check", "sage.cost"


SCHEDULE_KEY, RESOLUTION_KEY, HOST_KEY = "sage.schedule", "modelspec.resolution", "sage.host"


BASE_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0", "sd3": "sd3"}


def metadata_for(model: DiffusionModel, spec: dict, title: str, result: dict | None = None) -> dict[str, str]:
    """sai_model_spec 1.0.1, the `ss_` keys that hosts show, and our own complete spec as JSON."""
    from .. import __version__

    family, side = model.family, spec.get("resolution") or model.pixels
    architecture = (
        family.modelspec.replace("512", "768-v")
        if model.velocity and family.name == "sd2"
        else family.modelspec
    )
    where = "model and CLIP" if model.text.open else "the model"
    versions = {name: _version(name) for name in ("torch", "diffusers", "transformers")}
    data = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture,
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "modelspec.date": now(),
        RESOLUTION_KEY: f"{side}x{side}",
        "modelspec.description": f"Erases {spec['concept']!r}. Load it with strength 1.0 on {where}.",
        "modelspec.tags": "concept erasure, " + spec["method"],
        "modelspec.prediction_type": model.prediction,
        "ss_base_model_version": BASE_VERSIONS.get(family.name, family.name),
        "ss_v2": str(family.name == "sd2"),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(spec["rank"]),
        "ss_network_alpha": str(spec["alpha"]),
        "ss_output_name": title,
        "ss_sd_model_name": Path(model.source).name,
        SPEC_KEY: json.dumps(spec, ensure_ascii=False),
        "sage.version": __version__,
        "sage.model_sha256": model.fingerprint,
        "sage.versions": json.dumps(versions),
    }
    if about := getattr(model, "about", ""):
        data[HOST_KEY] = about
    if model.schedule:
        data[SCHEDULE_KEY] = model.schedule
    return data | ({RESULT_KEY: json.dumps(result)} if result else {})


def now() -> str:
    """The date as sai_model_spec has it, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
