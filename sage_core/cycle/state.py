"""The state of a run, so that a killed one goes on: tensors and JSON in one safetensors file, never a pickle."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..diffusion.text import Tokens
from ..diffusion.weights import copied, opened
from ..errors import SageError, shown
from ..files import parse_json, write_atomically
from ..prompts.compose import ConceptPrompts
from .latents import LatentBank

FORMAT = 2  # of what is written below


def write(run) -> None:
    """Save adapter, optimiser, random states, bank, what the parts of the method have learnt, and losses of a
    `Run`, atomically.
    """
    from safetensors.torch import save_file

    tensors = {f"adapter.{k}": v for k, v in run.adapter.tensors().items()}
    for i, p in enumerate(run.adapter.parameters()):
        for key, value in run.optimizer.state[p].items():
            tensors[f"optimizer.{i}.{key}"] = value.detach().cpu()
    tensors |= {f"bank.{k}": v.detach().cpu() for k, v in run.context.source.tensors().items()}
    tensors |= {
        f"part.{i}.{k}": v.detach().cpu()
        for i, part in enumerate(run.parts())
        for k, v in part.tensors().items()
    }
    tensors["generator"] = run.generator.get_state()
    pool = getattr(run.domain, "pool", [])
    for i, attack in enumerate(pool):
        flat = {
            "template": attack.prompts.template,
            "read": attack.prompts.read,
            "end": attack.prompts.tokens.end,
        }
        flat |= {f"ids.{j}": v for j, v in enumerate(attack.prompts.tokens.ids)} | {
            f"embeddings.{j}": v for j, v in enumerate(attack.embeddings)
        }
        tensors |= {f"pool.{i}.{k}": v.detach().cpu() for k, v in flat.items()}
    cost = run.cost()
    meta = {
        "format": FORMAT,
        "method": repr(run.method),
        "spec": run.spec.fingerprint(),
        "model": run.model.fingerprint,
        "sampling": run.model.sampling,
        "losses": run.losses,
        "pulls": run.pulls,
        "left": [] if run.watch is None else run.watch.curve,
        "rng": run.rng.getstate(),
        "seconds": run.seconds(),
        "cost": [cost.forwards, cost.backwards],
        "prompts": getattr(run.context.source, "retain_prompts", None),
        "scenes": getattr(run.context.source, "scenes", None),
        "pool": [[a.name, a.scene, a.leak] for a in pool],
    }
    tensors = {k: v.clone().contiguous() for k, v in tensors.items()}
    write_atomically(
        run.state_path, lambda p: save_file(tensors, p, metadata={"sage.state": json.dumps(meta)})
    )


def restore(run) -> bool:
    """Put a saved state into a fresh `Run`.

    False where there is none; SageError where it belongs to another erasure, or is damaged.
    """
    if run.state_path is None or not run.state_path.exists():
        return False
    try:
        meta, tensors = _read(run.state_path)
        _check(run, meta)
        _take(run, meta, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise SageError(
            f"The saved state {run.state_path.name} cannot be read ({shown(error)}); delete it and start"
            " again."
        ) from error
    return True


def _read(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    with opened(path) as f:
        meta = parse_json(f.metadata()["sage.state"])
        return meta, copied(f)


def _check(run, meta: dict) -> None:
    """Raises SageError where the state is not of this erasure, this model and this version."""
    same_model = (
        meta["model"] == run.model.fingerprint
        and meta.get("sampling", run.model.sampling) == run.model.sampling
    )
    if meta["spec"] != run.spec.fingerprint() or not same_model:
        raise SageError(
            f"The saved state {run.state_path.name} belongs to another erasure or model; start without"
            " resuming, or use another name."
        )
    if meta.get("format") != FORMAT or meta.get("method") != repr(run.method):
        raise SageError(
            f"The saved state {run.state_path.name} is of another version, which went other steps; delete it"
            " and start again."
        )


def _take(run, meta: dict, tensors: dict[str, torch.Tensor]) -> None:
    device = run.model.device
    run.adapter.load({k.removeprefix("adapter."): v for k, v in tensors.items() if k.startswith("adapter.")})
    _restore_optimizer(run, tensors)
    bank = {k.removeprefix("bank."): v.to(device) for k, v in tensors.items() if k.startswith("bank.")}
    run.context.source = (
        LatentBank(**bank, scenes=meta["scenes"], retain_prompts=meta["prompts"])
        if bank
        else run.make_source()
    )
    if bank:
        for index in LatentBank.ON_CPU & bank.keys():
            setattr(run.context.source, index, bank[index].cpu())
    for i, part in enumerate(run.parts()):
        own = {
            k.removeprefix(f"part.{i}."): v.to(device)
            for k, v in tensors.items()
            if k.startswith(f"part.{i}.")
        }
        if own:
            part.load(own)
    run.generator.set_state(tensors["generator"])
    version, internal, gauss = meta["rng"]
    run.rng.setstate((version, tuple(internal), gauss))
    run.losses = meta["losses"]
    if run.watch is not None:  # the untouched model was looked at again
        run.watch.curve += [(step, share) for step, share in meta.get("left", [])[1:]]
    for loss, pull in meta["pulls"]:
        run.note_pull(loss, pull)
    run.spent = meta["seconds"]
    run.start_cost.forwards -= meta["cost"][0]
    run.start_cost.backwards -= meta["cost"][1]
    if meta["pool"]:
        run.domain.pool = [_attack(tensors, i, *row, device) for i, row in enumerate(meta["pool"])]


def _restore_optimizer(run, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    run.optimizer.load_state_dict(
        {"state": state, "param_groups": run.optimizer.state_dict()["param_groups"]}
    )


def _attack(tensors: dict[str, torch.Tensor], i: int, name: str, scene: str | None, leak: float, device):
    from ..methods.domains.self_check import Attack

    own = {
        k.removeprefix(f"pool.{i}."): v.to(device) for k, v in tensors.items() if k.startswith(f"pool.{i}.")
    }
    count = sum(k.startswith("ids.") for k in own)
    tokens = Tokens([own[f"ids.{j}"] for j in range(count)], own["end"])
    return Attack(
        name,
        ConceptPrompts(tokens, own["template"], own["read"]),
        [own[f"embeddings.{j}"] for j in range(count)],
        scene,
        leak,
    )
