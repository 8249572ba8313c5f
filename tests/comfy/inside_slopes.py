"""For the scripts beside it that train in ComfyUI's own Python: is the gradient the slope of the loss?"""

from __future__ import annotations

import torch


def slopes(core, layers) -> tuple[tuple[float, float], torch.Tensor]:
    """The slope of a loss along its gradient, by the backward pass and by two predictions beside it; and that
    gradient in one row.
    """
    from sage_pack.sage_core.lora.adapter import Adapter

    adapter = Adapter.create(layers, 4, 4.0, torch.Generator().manual_seed(1), core.device)
    try:
        with torch.no_grad():
            for up in adapter.up.values():
                up.copy_(0.05 * torch.randn(up.shape, generator=torch.Generator().manual_seed(2)))
        z, t, cond = core.noise([3, 4]), torch.tensor([700, 400]), core.encode(["a dog", "a red house there"])

        def loss() -> torch.Tensor:
            return core.predict_noise(z, t, cond).square().mean()

        loss().backward()
        ways = [up.grad.clone() for up in adapter.up.values() if up.grad is not None]
        ups = [up for up in adapter.up.values() if up.grad is not None]
        length = torch.stack([way.square().sum() for way in ways]).sum().sqrt()
        found = []
        with torch.no_grad():
            for sign in (1, -1):
                for up, way in zip(ups, ways):
                    up.add_(sign * 0.01 * way / length)
                found.append(loss().double())
                for up, way in zip(ups, ways):
                    up.sub_(sign * 0.01 * way / length)
        both = float(length), float((found[0] - found[1]) / 0.02)
        return both, torch.cat([way.flatten() for way in ways])
    finally:
        adapter.remove()
