"""A learner: one module, one optimiser, one clipped step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from worldstream.config import LearnerConfig
from worldstream.training.cadence import Ratio

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps for a parameter."""
DECAYED = (nn.Linear, nn.Conv2d, nn.LSTMCell)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """What is trained; matrices of linear maps, convolutions and recurrent cells decay, by type not name (C15)."""
    decayed = {
        id(parameter)
        for child in module.modules()
        if isinstance(child, DECAYED)
        for parameter in child.parameters(recurse=False)
        if parameter.ndim > 1
    }
    # Ensembles stack their matrices along a first axis; their biases are (P, 1, N).
    trained = [p for p in module.parameters() if p.requires_grad]
    decayed |= {id(p) for p in trained if p.ndim == 3 and p.shape[1] > 1}
    with_decay = [p for p in trained if id(p) in decayed]
    without = [p for p in trained if id(p) not in decayed]
    return [{"params": with_decay, "weight_decay": weight_decay}, {"params": without, "weight_decay": 0.0}]


class Learner:
    """Optimises the parameters of one module by AdamW with a clipped gradient norm."""

    def __init__(self, module: nn.Module, config: LearnerConfig) -> None:
        self.module = module
        self.config = config
        self.optimizer = torch.optim.AdamW(
            parameter_groups(module, config.weight_decay), lr=config.learning_rate, eps=1e-8, fused=True
        )

    def schedule(self, clock: float, steps: int) -> None:
        """Set the learning rate for the clock, in environment steps, of a run of so many steps."""
        last, cooldown = min(self.config.stop_steps or steps, steps), self.config.cooldown
        left = max(0.0, 1.0 - clock / last)
        factor = min(1.0, left / cooldown) if cooldown else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor

    def step(self, loss: Tensor) -> Tensor:
        """One update from a scalar loss, unless the loss or its gradient is not finite: then no parameter changes.

        Returns the norm of the gradient before clipping, a scalar tensor; NaN when the update was skipped.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip_norm)
        finite = loss.detach().isfinite() & norm.isfinite()
        # By these two (PyTorch's protocol for scaled gradients) the fused kernel is told on the device not to move,
        # so that the host need not wait for the answer.
        setattr(self.optimizer, "grad_scale", None)  # noqa: B010
        setattr(self.optimizer, "found_inf", (~finite).float())  # noqa: B010
        self.optimizer.step()
        return torch.where(finite, norm, torch.nan)

    def cadence(self) -> Ratio:
        """When updates are due."""
        config = self.config
        return Ratio(config.updates_per_step, config.start_steps, config.every_steps, config.stop_steps)

    def state_dict(self) -> dict[str, Any]:
        """State of the optimiser; the weights are the module's."""
        saved = self.optimizer.state_dict()
        return {"state": {str(index): dict(values) for index, values in saved["state"].items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``; load the module first. Raises ValueError for moments that fit no weight."""
        groups = self.optimizer.state_dict()["param_groups"]
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        values = {
            int(index): {name: _laid_out_like(parameters[int(index)], saved[name]) for name in _MOMENTS}
            for index, saved in state["state"].items()
        }
        self.optimizer.load_state_dict({"state": values, "param_groups": groups})


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Moments with the strides of their parameter: the fused optimiser takes both as flat memory.

    Raises ValueError for what is neither a moment of it nor the number of its updates.
    """
    if value.dtype != torch.float32 or value.shape not in (parameter.shape, ()) or not value.isfinite().all():
        raise ValueError(
            f"moments {value.dtype} {tuple(value.shape)} of a weight {tuple(parameter.shape)}, or not finite"
        )
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
