"""The trained parts of a run as one module: tokenizers, world model, actor-critic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from worldstream.agent.actor_critic import ActorCritic
from worldstream.agent.return_scale import ReturnScale
from worldstream.config import Config
from worldstream.errors import ConfigError
from worldstream.specs import ActionSpec, KeySpec, Specs
from worldstream.tokenizers.bundle import TokenizerBundle
from worldstream.types import Policy
from worldstream.world_model.model import WorldModel


class Models(nn.Module):
    """Everything with weights or statistics, built from a configuration and the specs of an environment."""

    def __init__(self, config: Config, key_specs: dict[str, KeySpec], action_spec: ActionSpec) -> None:
        super().__init__()
        self.key_specs = key_specs
        self.action_spec = action_spec
        self.tokenizers = TokenizerBundle(config.tokenizers, key_specs)
        self.world_model = WorldModel(
            config.world_model,
            self.tokenizers.specs,
            action_spec,
            max_blocks=config.max_blocks,
            codes_of=self.tokenizers.features,
        )
        self.actor_critic = ActorCritic(config.actor_critic, self.tokenizers.specs, action_spec)
        self.return_scale = ReturnScale(config.losses.return_scale)

    def policy_of_tokens(self) -> Policy:
        """The policy of the agent, asked with tokens by key instead of their features."""
        policy = self.actor_critic.policy()
        return lambda tokens, carry, generator: policy(self.tokenizers.features(tokens), carry, generator)

    @property
    def specs(self) -> Specs:
        """What is observed, by key, and what is done."""
        return self.key_specs, self.action_spec

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.tokenizers.version.device


def num_parameters(module: nn.Module) -> int:
    """Number of trained scalars."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def choose_device(name: str) -> torch.device:
    """The device of a name of PyTorch's; "auto" is the first CUDA device where there is one, else the CPU.

    Raises ConfigError when the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" has no numbers
    except Exception as error:  # each backend that is not there raises another kind
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"device '{name}' cannot be used: {reason}. Use --device cpu or auto.") from error
    return device


@contextmanager
def keep_thread_count() -> Iterator[None]:
    """Training sets the number of threads of the whole process; put back what the caller had."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
