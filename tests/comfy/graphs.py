"""Workflows in API format."""

from __future__ import annotations


def erase(
    concepts: str = "dog",
    steps: int = 0,
    name: str = "erased-%concept%",
    vae: bool = True,
    loader: dict | None = None,
    **inputs,
) -> dict:
    """Erase Concept behind a loader (the bundled model's by default): node 1 loads, node 2 erases."""
    node = {
        "model": ["1", 0],
        "clip": ["1", 1],
        "concepts": concepts,
        "method": "sage",
        "effort": "standard",
        "lora_name": name,
        "seed": 0,
        "steps": steps,
        **inputs,
    }
    if vae:
        node["vae"] = ["1", 2]
    return {
        "1": loader or {"class_type": "SAGE_LoadDemoModel", "inputs": {}},
        "2": {"class_type": "SAGE_EraseConcept", "inputs": node},
    }


def checkpoint(name: str) -> dict:
    return {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": name}}


def lora(name: str) -> dict:
    """ComfyUI's own LoRA loader behind node 1."""
    return {
        "class_type": "LoraLoader",
        "inputs": {
            "model": ["1", 0],
            "clip": ["1", 1],
            "lora_name": name,
            "strength_model": 1.0,
            "strength_clip": 1.0,
        },
    }


def draw(
    graph: dict,
    first: int,
    model: list,
    clip: list,
    prompt: str,
    images: int,
    seed: int = 100,
    steps: int = 20,
    size: int = 64,
    prefix: str = "t",
    vae: list | None = None,
    guidance: float = 5.0,
    sampler: tuple[str, str] = ("dpmpp_2m", "karras"),
) -> dict:
    """`graph` with a KSampler drawing `images` pictures, saved; its nodes are numbered from `first`."""
    n = [str(first + i) for i in range(6)]
    return graph | {
        n[0]: {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": prompt}},
        n[1]: {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": ""}},
        n[2]: {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": size, "height": size, "batch_size": images},
        },
        n[3]: {
            "class_type": "KSampler",
            "inputs": {
                "model": model,
                "positive": [n[0], 0],
                "negative": [n[1], 0],
                "latent_image": [n[2], 0],
                "seed": seed,
                "steps": steps,
                "cfg": guidance,
                "sampler_name": sampler[0],
                "scheduler": sampler[1],
                "denoise": 1.0,
            },
        },
        n[4]: {"class_type": "VAEDecode", "inputs": {"samples": [n[3], 0], "vae": vae or ["1", 2]}},
        n[5]: {"class_type": "SaveImage", "inputs": {"images": [n[4], 0], "filename_prefix": prefix}},
    }


def compare(graph: dict, node: str, prompts, images: int = 2) -> dict:
    return graph | {
        node: {
            "class_type": "SAGE_CompareErasure",
            "inputs": {
                "model_before": ["1", 0],
                "clip_before": ["1", 1],
                "model_after": ["2", 0],
                "clip_after": ["2", 1],
                "vae": ["1", 2],
                "prompts": prompts,
                "images": images,
                "seed": 0,
                "steps": 20,
                "guidance": 5.0,
                "size": 64,
            },
        }
    }


def report(graph: dict, node: str, concept: str, images: int = 8, **inputs) -> dict:
    """Erasure Report on the bundled model before and after node 2; its table and path are shown as text."""
    graph = compare(graph, node, "", images)
    graph[node]["class_type"] = "SAGE_ErasureReport"
    del graph[node]["inputs"]["prompts"]
    graph[node]["inputs"] |= {"concept": concept, "attack": False, **inputs}
    for number, output in enumerate((0, 2), int(node) + 1):
        graph[str(number)] = {"class_type": "PreviewAny", "inputs": {"source": [node, output]}}
    return graph


def guarded(concepts: str, prompts: str, images: int = 1) -> dict:
    """The bundled model without and with a guard, nothing trained."""
    graph = compare({"1": erase()["1"]}, "3", prompts, images)
    graph["2"] = {
        "class_type": "SAGE_ConceptGuard",
        "inputs": {
            "model": ["1", 0],
            "clip": ["1", 1],
            "concepts": concepts,
            "threshold": 0.7,
            "push": 0.6,
            "pictures": True,
        },
    }
    graph["3"]["inputs"]["clip_after"] = ["1", 1]
    return graph


def attacked_and_guarded(steps: int = 60, images: int = 4) -> dict:
    """Erase, attack, and draw what the attack found: with the erased model, and with the guard on it."""
    graph = erase("dog")
    graph["3"] = {
        "class_type": "SAGE_RedTeam",
        "inputs": {
            "model_before": ["1", 0],
            "clip_before": ["1", 1],
            "model": ["2", 0],
            "clip": ["2", 1],
            "concept": "dog",
            "steps": steps,
        },
    }
    graph["4"] = guarded("dog", "")["2"]
    graph["4"]["inputs"] |= {"model": ["2", 0], "model_before": ["1", 0]}
    for first, model, prefix in ((10, "2", "attacked"), (20, "4", "guarded")):
        graph = draw(graph, first, [model, 0], ["2", 1], "", images, steps=12, prefix=prefix)
        del graph[str(first)]  # the attack's conditioning takes the prompt's place
        graph[str(first + 3)]["inputs"]["positive"] = ["3", 0]
    return graph
