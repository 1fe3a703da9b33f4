"""Recompute the numbers of the published agent with our modules (``tests/golden/README.md``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from parity.arrays import RETURNS, Arrays, action_ids, prepared, tokenizer_input, weights_of
from parity.sizes import sized_agent
from parity.spaces import PublishedSpaces
from worldstream.agent.actor_critic import Trunk
from worldstream.agent.losses import ActorCriticLossConfig
from worldstream.agent.return_scale import ReturnScale
from worldstream.importers.checkpoint import make_models
from worldstream.importers.names import load_published, logit_order
from worldstream.importers.published import OBSERVATION_TYPES
from worldstream.importers.settings import values_of
from worldstream.importers.tensors import ForeignTensors
from worldstream.models import Models
from worldstream.nn.numerics import lambda_returns
from worldstream.tokenizers.image import ImageTokenizer
from worldstream.tokenizers.quantizers import VectorQuantizer
from worldstream.types import EXTRINSIC, Batch, Tokens
from worldstream.world_model.block import SUMMARY
from worldstream.world_model.heads.disagreement import DisagreementHead
from worldstream.world_model.heads.observation import ObservationHead
from worldstream.world_model.heads.termination import TerminationHead
from worldstream.world_model.model import WorldModelLosses
from worldstream.world_model.sequence.attention import AttentionModel

GIVEN_BLOCKS = 2
"""Blocks that are given at once before the first of ``imagination_latents``."""


LOSSES = ("mask_padding", "rewards", "ends")
"""Inputs that the losses need beside observations and actions."""


def recompute(weights: Arrays, inputs: Arrays, settings: Mapping[str, Any]) -> Arrays:
    """What our modules compute with the published agent's weights.

    Left out is what we deliberately compute otherwise (``docs/method.md``): ``world_model_loss/loss_ends`` of the
    retention agents (C1) and ``disagreement/token_2d`` of tokens with several channels (C6). So is ``curiosity_loss``
    of a number of segments that the members of the ensemble cannot share evenly.

    Args:
        weights: arrays ``w/...`` of a golden file, by name without the prefix.
        inputs: arrays ``in/...``, of any precision; outputs whose inputs are absent are left out.
        settings: the JSON beside it.

    Returns:
        arrays named as ``out/...``, without the prefix.

    Raises WeightsError when weights, inputs and settings do not fit each other.
    """
    given = prepared(inputs, PublishedSpaces.from_json(settings))
    blocks = given["actions"].shape[1] if "actions" in given else GIVEN_BLOCKS
    models, discounts = golden_models(weights, settings, num_blocks=blocks)
    with torch.no_grad():
        recomputation = _Recomputation(models, given, perceptual=_has_perceptual_loss(settings))
        results = {**recomputation.all(), **_returns(given, discounts)}
    return {name: value.numpy() for name, value in results.items()}


def golden_models(
    weights: Arrays, settings: Mapping[str, Any], *, num_blocks: int
) -> tuple[Models, ActorCriticLossConfig]:
    """Models of a golden file, with room for segments of ``num_blocks``; and the discounts of the agent.

    Raises WeightsError when weights and settings do not fit each other.
    """
    spaces = PublishedSpaces.from_json(settings)
    tensors = ForeignTensors(weights_of(weights), "the set of weights")
    agent = sized_agent(tensors, settings)
    config = agent.config(tensors.source)
    length = max(num_blocks, GIVEN_BLOCKS, config.imagination.context_length + 2)
    config = replace(config, imagination=replace(config.imagination, horizon=1), segment_length=length)
    kinds = {kind: kind for kind in OBSERVATION_TYPES if kind in spaces.keys}
    actions = spaces.action_spec(config.environment.num_action_levels)
    models = make_models(config, {kind: spaces.keys[kind] for kind in kinds}, actions, tensors.source)
    load_published(models, tensors, agent, kinds)
    return models, config.losses


def _has_perceptual_loss(settings: Mapping[str, Any]) -> bool:
    """Whether the tokenizer was trained with one, unless the settings say that it was not."""
    said = list(values_of(settings, "with_lpips"))
    return not said or any(said)


class _Recomputation:
    """One golden file under way; each method returns some of its outputs.

    Args:
        models: with the weights; keys of observations are called like their kinds.
        inputs: prepared.
        perceptual: whether the tokenizer was trained with a perceptual loss, which we have no weights for.
    """

    def __init__(self, models: Models, inputs: dict[str, Tensor], *, perceptual: bool) -> None:
        self.models, self.model, self.inputs, self.perceptual = models, models.world_model, inputs, perceptual
        self.observed = {
            kind: tokenizer_input(kind, inputs[f"observations/{kind}"])
            for kind in models.key_specs
            if f"observations/{kind}" in inputs
        }
        by_key = models.tokenizers.by_key
        self.tokens: Tokens = {kind: by_key[kind].encode(x) for kind, x in self.observed.items()}

    def all(self) -> dict[str, Tensor]:
        """Every output that needs the weights, and whose inputs are there."""
        found = self.tokenized()
        if "actions" in self.inputs and self.observed.keys() == self.models.key_specs.keys():
            found |= {"token_embeddings": self.blocks, **self.latents(), **self.heads(), **self.imagined()}
            found |= self.acted()
            if all(name in self.inputs for name in LOSSES):
                found |= self.losses()
        return found

    @cached_property
    def actions(self) -> Tensor:
        """(B, T, M) ids."""
        return action_ids(self.models.action_spec, self.inputs["actions"])

    @cached_property
    def blocks(self) -> Tensor:
        """(B, T, L, E) embeddings."""
        return self.model.embed(self.tokens, self.actions)

    @cached_property
    def outputs(self) -> tuple[Tensor, Tensor]:
        """Context (B, T, L, E) and predictions (B, T, n, E) of the sequence model."""
        return self.model.sequence.parallel(self.blocks, self.model.init_state(len(self.blocks)))[:2]

    def tokenized(self) -> dict[str, Tensor]:
        """Tokens, and what they stand for."""
        found = {}
        for kind, ids in self.tokens.items():
            tokenizer = self.models.tokenizers.by_key[kind]
            codes = tokenizer.features(ids).float()
            if isinstance(tokenizer, ImageTokenizer):
                codes = codes.unflatten(2, cast(tuple[int, int], tokenizer.spec.grid)).movedim(-1, 2)
                decoded = tokenizer.decoder(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])
                found[f"reconstruction/{kind}"] = (decoded + 1) / 2
                found |= self._tokenizer_losses(tokenizer, self.observed[kind])
            found[f"tokens/{kind}"] = ids if kind == "token_2d" else ids.squeeze(-1)
            found[f"codes/{kind}"] = codes.squeeze(-1) if kind in ("vector", "token") else codes
        return found

    def _tokenizer_losses(self, tokenizer: ImageTokenizer, x: Tensor) -> dict[str, Tensor]:
        """Losses of the tokenizer on the first picture of each segment, on which the published ones were recorded."""
        losses = {name: loss.mean() for name, loss in tokenizer.losses(x[:, :1]).items()}
        found = {"reconstruction_loss": losses["reconstruction"]}
        if isinstance(tokenizer.quantizer, VectorQuantizer):  # the others have no more of them
            found["commitment_loss"] = losses["quantization"]
            if not self.perceptual:
                found["perceptual_loss"] = losses["perceptual"]
        return {f"tokenizer_loss/{name}": value for name, value in found.items()}

    def latents(self) -> dict[str, Tensor]:
        """Predictions at the observation slots, context at those of the actions."""
        context, predictions = self.outputs
        actions = context[:, :, self.model.layout.num_observation_tokens :]
        return {"latents": torch.cat((predictions, actions), 2).flatten(1, 2)}

    def heads(self) -> dict[str, Tensor]:
        """What is read from the predictions of every block."""
        summary = self._at(SUMMARY)
        (reward,), (termination,) = self.model.heads_of("reward"), self.model.heads_of("termination")
        found = {
            "reward": reward.predict(summary, {}, None)[EXTRINSIC],
            "termination_logits": cast(TerminationHead, termination).net(summary).squeeze(2),
        }
        for head in cast(list[ObservationHead], self.model.heads_of("observation")):
            logits = head.fresh(self._at(head.positions)).logits
            found[f"observation_logits/{head.positions}"] = _as_published(logits, head.vocabulary)
        for ensemble in cast(list[DisagreementHead], self.model.heads_of("disagreement")):
            latents, kind = self._at(ensemble.positions), ensemble.positions
            logits = ensemble.everybody(latents).logits
            found[f"ensemble_logits/{kind}"] = _as_published(logits, ensemble.vocabulary)
            if len(ensemble.vocabulary) == 1:  # C6: ours counts channels one by one
                found[f"disagreement/{kind}"] = ensemble.token_divergence(latents)
        return found

    def _at(self, positions: str) -> Tensor:
        return self.outputs[1][:, :, self.model.layout.positions(positions)]

    def losses(self) -> dict[str, Tensor]:
        """Observations count behind the context; rewards and ends wherever there was a block before (C17)."""
        mask = self.inputs["mask_padding"]
        # Members learn from shares of equal size.
        shared = self.model.heads_of("disagreement") and len(mask) % self.model.config.batch_shares == 0
        batch = Batch(
            anchors=np.arange(len(mask)),
            tokens=self.tokens,
            actions=self.actions,
            rewards=self.inputs["rewards"],
            terminated=self.inputs["ends"],
            observed=mask,
            acted=mask,
        )
        config = self.model.config
        heads = {name: head for name, head in config.heads.items() if shared or name != "disagreement"}
        config = replace(config, heads=heads, loss_weights=dict.fromkeys(heads, 1.0))

        def losses(**changes: Any) -> WorldModelLosses:
            self.model.config = replace(config, **changes)
            return self.model.losses(batch)

        behind = losses(priority_weights={"observation": 1.0})
        anywhere = losses(context_length=1, priority_weights={"reward": 1.0})
        found = {
            "loss_obs": behind.means["observation"],
            "loss_rewards": anywhere.means["reward"],
            "per_segment": behind.priorities + anywhere.priorities,
        }
        if "disagreement" in behind.means:
            found["curiosity_loss"] = behind.means["disagreement"]
        if isinstance(self.model.sequence, AttentionModel):  # C1: the older agents expect ends a block too early
            found["loss_ends"] = anywhere.means["termination"]
        return {f"world_model_loss/{name}": value for name, value in found.items()}

    def imagined(self) -> dict[str, Tensor]:
        """Predictions of the model that is stepped block by block."""
        sequence = self.model.sequence
        state = sequence.remember(self.blocks[:, : GIVEN_BLOCKS - 1], sequence.init_state(len(self.blocks)))
        latents, state = sequence.step(self.blocks[:, GIVEN_BLOCKS - 1], state)
        predictions = [latents]
        for t in range(GIVEN_BLOCKS, self.blocks.shape[1] - 1):
            latents, state = sequence.step(self.blocks[:, t], state)
            predictions.append(latents)
        asked = max(self.blocks.shape[1] - GIVEN_BLOCKS, 0)  # there may be fewer blocks than are given
        return {"imagination_latents": torch.stack(predictions, 1)[:, :asked]}

    def acted(self) -> dict[str, Tensor]:
        """Policy and value after each observation, with the executed actions fed in between."""
        agent, (batch_size, length) = self.models.actor_critic, self.actions.shape[:2]
        trunks = cast(list[Trunk], list(agent.trunks))
        executed = [_embedded(trunk, self.actions, self.inputs["actions"]) for trunk in trunks]
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


def _returns(inputs: dict[str, Tensor], losses: ActorCriticLossConfig) -> dict[str, Tensor]:
    """Lambda returns, whose last one is the value itself, and the spread of returns after each update."""
    found = {}
    if all(name in inputs for name in RETURNS):
        rewards, ends, values = (inputs[name] for name in RETURNS)
        returns = [values[:, -1:]]
        if rewards.shape[1] > 1:
            before = lambda_returns(rewards[:, :-1], ends[:, :-1], values, losses.discount, losses.lambda_)
            returns.insert(0, before)
        found["lambda_returns"] = torch.cat(returns, 1)
    if "return_scale_inputs" in inputs:
        updates, spreads = inputs["return_scale_inputs"], []
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
