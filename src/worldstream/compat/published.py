"""Recompute the numbers of the published agent with our modules, for parity (method.md; ``tests/golden``)."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from worldstream.agent.actor_critic import Trunk
from worldstream.agent.losses import ActorCriticLossConfig
from worldstream.agent.return_scale import ReturnScale
from worldstream.compat.architecture import PublishedSettings, config_for, in_published_order, published_kinds
from worldstream.compat.spaces import Arrays, action_ids, action_spec, key_specs, tokenizer_input
from worldstream.compat.tensors import ForeignTensors
from worldstream.compat.weights import load_published, logit_order
from worldstream.models import Models
from worldstream.nn.numerics import lambda_returns
from worldstream.tokenizers.image import ImageTokenizer, ImageVQ
from worldstream.types import Batch, Tokens
from worldstream.world_model.block import SUMMARY
from worldstream.world_model.heads.disagreement import DisagreementHead
from worldstream.world_model.heads.termination import TerminationHead
from worldstream.world_model.heads.tokens import TokenHead
from worldstream.world_model.model import WorldModelLosses

GIVEN_BLOCKS = 2
"""Blocks that are given at once before the first of ``imagination_latents``."""


def recompute(weights: Arrays, inputs: Arrays, settings: dict[str, Any]) -> Arrays:
    """What our modules compute with the published agent's weights.

    Left out is what we deliberately compute otherwise (``docs/method.md``): ``world_model_loss/loss_ends`` of the
    retention agents (C1) and ``disagreement/token_2d`` of tokens with several channels (C6).

    Args:
        weights: arrays ``w/...`` of a golden file, by name without the prefix.
        inputs: arrays ``in/...``.
        settings: the JSON beside it.

    Returns:
        arrays named as ``out/...``, without the prefix, as far as the inputs allow.

    Raises WeightsError when weights and settings do not fit each other.
    """
    specs = in_published_order(key_specs(settings))
    tensors = ForeignTensors({name: torch.as_tensor(array) for name, array in weights.items()}, "the set of weights")
    published = PublishedSettings.from_json(settings)
    num_blocks = inputs["mask_padding"].shape[1]
    length = max(num_blocks, published.context_length + 1)
    config = config_for(tensors, dataclasses.replace(published, segment_length=length))
    models = Models(config, specs, action_spec(settings, config.environment.num_action_levels)).eval()
    load_published(models, tensors)
    with torch.no_grad():
        results = {**_Recomputation(models, inputs).all(), **_returns(inputs, config.losses)}
    return {name: value.numpy() for name, value in results.items()}


class _Recomputation:
    """One golden file under way; each method returns some of its outputs."""

    def __init__(self, models: Models, inputs: Arrays) -> None:
        self.models, self.model, self.inputs = models, models.world_model, inputs
        self.kinds = published_kinds(models.key_specs)
        self.mask = torch.as_tensor(inputs["mask_padding"])
        self.tokens: Tokens = {
            key: tokenizer.encode(tokenizer_input(self.kinds[key], inputs))
            for key, tokenizer in models.tokenizers.by_key.items()
        }
        raw = torch.as_tensor(inputs["actions"])
        self.raw_actions = raw if raw.ndim == 3 else raw.unsqueeze(-1)
        self.actions = action_ids(models.action_spec, self.raw_actions)
        self.blocks = self.model.embed(self.tokens, self.actions)
        start = self.model.init_state(len(self.blocks))
        self.context, self.predictions, _ = self.model.sequence.parallel(self.blocks, start)

    def all(self) -> dict[str, Tensor]:
        """Every output that needs the weights."""
        parts = (self.tokenized(), self.latents(), self.heads(), self.losses(), self.imagined(), self.acted())
        return {name: value for part in parts for name, value in part.items()}

    def tokenized(self) -> dict[str, Tensor]:
        """Tokens, and what they stand for."""
        found = {"token_embeddings": self.blocks}
        for key, kind in self.kinds.items():
            ids, tokenizer = self.tokens[key], self.models.tokenizers.by_key[key]
            codes = tokenizer.features(ids).float()
            if isinstance(tokenizer, ImageTokenizer):
                codes = codes.unflatten(2, cast(tuple[int, int], tokenizer.spec.grid)).movedim(-1, 2)
                decoded = tokenizer.decoder(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])
                found[f"reconstruction/{kind}"] = (decoded + 1) / 2
                found.update(self._tokenizer_losses(tokenizer, tokenizer_input(kind, self.inputs)))
            found[f"tokens/{kind}"] = ids if kind == "token_2d" else ids.squeeze(-1)
            found[f"codes/{kind}"] = codes.squeeze(-1) if kind in ("vector", "token") else codes
        return found

    @staticmethod
    def _tokenizer_losses(tokenizer: ImageTokenizer, x: Tensor) -> dict[str, Tensor]:
        """Losses of the tokenizer on the first picture of each segment, on which the published ones were recorded."""
        losses = tokenizer.losses(x[:, :1])
        found = {"tokenizer_loss/reconstruction_loss": losses["reconstruction"].mean()}
        if isinstance(tokenizer, ImageVQ):
            found["tokenizer_loss/commitment_loss"] = losses["quantization"].mean()
        return found

    def latents(self) -> dict[str, Tensor]:
        """Predictions at the observation slots, context at those of the actions."""
        actions = self.context[:, :, self.model.layout.num_observation_tokens :]
        return {"latents": torch.cat((self.predictions, actions), 2).flatten(1, 2)}

    def heads(self) -> dict[str, Tensor]:
        """What is read from the predictions of every block."""
        summary = self._at(SUMMARY)
        termination = cast(TerminationHead, self.model.termination)
        found = {
            "reward": self.model.reward.predict(summary),
            "termination_logits": termination.net(summary).squeeze(2),
        }
        for head in cast(list[TokenHead], list(self.model.tokens)):
            logits = head(self._at(head.positions)).logits
            found[f"observation_logits/{self.kinds[head.positions]}"] = _as_published(logits, head.vocabulary)
        for ensemble in cast(list[DisagreementHead], list(self.model.disagreement)):
            latents, kind = self._at(ensemble.positions), self.kinds[ensemble.positions]
            logits = ensemble.everybody(latents).logits
            found[f"ensemble_logits/{kind}"] = _as_published(logits, ensemble.vocabulary)
            if len(ensemble.vocabulary) == 1:  # C6: ours counts channels one by one
                found[f"disagreement/{kind}"] = ensemble.token_divergence(latents)
        return found

    def _at(self, positions: str) -> Tensor:
        return self.predictions[:, :, self.model.layout.positions(positions)]

    def losses(self) -> dict[str, Tensor]:
        """Observations count behind the context; rewards and ends wherever there was a block before (C17)."""
        batch = Batch(
            ids=np.arange(len(self.mask)),
            tokens=self.tokens,
            actions=self.actions,
            rewards=torch.as_tensor(self.inputs["rewards"]),
            terminated=torch.as_tensor(self.inputs["ends"]).bool(),
            observed=self.mask,
            acted=self.mask,
        )
        behind = self._losses(batch, self.model.config.context_length, priority="observation")
        anywhere = self._losses(batch, 1, priority="reward")
        found = {
            "loss_obs": behind.means["observation"],
            "loss_rewards": anywhere.means["reward"],
            "per_segment": behind.priorities + anywhere.priorities,
        }
        if "disagreement" in behind.means:
            found["curiosity_loss"] = behind.means["disagreement"]
        if self.model.config.sequence.model == "attention":  # C1: the older agents expect ends a block too early
            found["loss_ends"] = anywhere.means["termination"]
        return {f"world_model_loss/{name}": value for name, value in found.items()}

    def _losses(self, batch: Batch, context_length: int, *, priority: str) -> WorldModelLosses:
        """Losses under another context; ``priority`` is the loss that alone makes the priorities."""
        config = self.model.config
        changes = {"context_length": context_length, "priority_weights": {priority: 1.0}}
        try:
            self.model.config = dataclasses.replace(config, **changes)  # type: ignore[arg-type]
            return self.model.losses(batch)
        finally:
            self.model.config = config

    def imagined(self) -> dict[str, Tensor]:
        """Predictions of the model that is stepped block by block."""
        sequence = self.model.sequence
        state = sequence.parallel(self.blocks[:, :GIVEN_BLOCKS], sequence.init_state(len(self.blocks)))[2]
        predictions = [sequence.predict(state)]
        for t in range(GIVEN_BLOCKS, self.blocks.shape[1] - 1):
            latents, state = sequence.step(self.blocks[:, t], state)
            predictions.append(latents)
        return {"imagination_latents": torch.stack(predictions, 1)}

    def acted(self) -> dict[str, Tensor]:
        """Policy and value after each observation, with the executed actions fed in between."""
        agent, (batch_size, length) = self.models.actor_critic, self.mask.shape
        trunks = cast(list[Trunk], list(agent.trunks))
        executed = [_embedded(trunk, self.actions, self.raw_actions) for trunk in trunks]
        memory, logits, values = list(agent.initial_carry(batch_size).memory), [], []
        for t in range(length):
            features = self.models.tokenizers.features({key: ids[:, t] for key, ids in self.tokens.items()})
            acted = torch.full((batch_size,), t > 0)
            for i, trunk in enumerate(trunks):
                own = slice(2 * i, 2 * i + 2)
                observed, before = trunk.encoder(features), executed[i][:, max(t - 1, 0)]
                memory[own] = trunk(observed, *memory[own], acted, before)
            logits.append(_as_published(agent.actor(memory[0]), agent.sizes))
            values.append(agent.critic(memory[-2]).mean)
        policy = torch.stack(logits, 1).unsqueeze(2)
        levels = (len(agent.sizes), -1) if self.models.action_spec.ordinal[0] else (-1,)
        return {"policy_logits": policy.unflatten(-1, levels), "values": torch.stack(values, 1)}


def _returns(inputs: Arrays, losses: ActorCriticLossConfig) -> dict[str, Tensor]:
    """Lambda returns, whose last one is the value itself, and the spread of returns after each update."""
    found = {}
    if "returns_rewards" in inputs:
        names = ("returns_rewards", "returns_ends", "returns_values")
        rewards, ends, values = (torch.as_tensor(inputs[name]) for name in names)
        returns = lambda_returns(rewards[:, :-1], ends[:, :-1], values, losses.discount, losses.lambda_)
        found["lambda_returns"] = torch.cat((returns, values[:, -1:]), 1)
    if "return_scale_inputs" in inputs:
        updates, spreads = torch.as_tensor(inputs["return_scale_inputs"]), []
        scale = ReturnScale(num_samples=updates[0].numel())
        for update in updates:
            scale.remember(update)
            spreads.append(scale.spread())
        found["return_scale"] = torch.stack(spreads)
    return found


def _as_published(logits: Tensor, vocabulary: tuple[int, ...]) -> Tensor:
    """Our order of logits to one channel after the other."""
    return logits[..., logit_order(vocabulary).argsort()]


def _embedded(trunk: Trunk, ids: Tensor, raw: Tensor) -> Tensor:
    """(B, T, width) embeddings of executed actions; continuous ones as they are, not only the levels of ours."""
    embed = trunk.action_embed
    embedded: Tensor = embed(ids) if embed.linear is None else embed.linear(raw)
    return embedded
