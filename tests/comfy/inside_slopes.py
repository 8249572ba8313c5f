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

        def slope(step: float) -> float:
            found = []
            for sign in (1, -1):
                for up, way in zip(ups, ways):
                    up.add_(sign * step * way / length)
                found.append(loss().double())
                for up, way in zip(ups, ways):
                    up.sub_(sign * step * way / length)
            return float((found[0] - found[1]) / (2 * step))

        step = min(max(5e-4 / float(length), 0.01), 0.05)  # a flat loss needs a larger one in float32
        with torch.no_grad():  # Richardson's: without the error that grows with the square of the step
            beside = (4 * slope(step / 2) - slope(step)) / 3
        return (float(length), beside), torch.cat([way.flatten() for way in ways])
    finally:
        adapter.remove()
