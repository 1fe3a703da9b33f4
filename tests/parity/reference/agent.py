"""What the golden files hold, computed from the equations in double precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from parity.reference.names import AGENT, KINDS, MODEL, PICTURES, Arrays
from parity.reference.sequence import sequence_model

GROUPS = 8
REWARD_LIMIT, VALUE_LIMIT = 10.39486, 15.0


def reference(weights: Arrays, inputs: Arrays, settings: dict[str, Any]) -> Arrays:
    """Outputs by name, from weights, inputs and settings as ``recompute`` takes them."""
    with torch.no_grad():
        return {name: value.numpy() for name, value in Reference(weights, inputs, settings).outputs().items()}


def doubled(arrays: Arrays) -> dict[str, Tensor]:
    tensors = {name: torch.as_tensor(array) for name, array in arrays.items()}
    return {name: x.double() if x.is_floating_point() else x for name, x in tensors.items()}


def levels_of_vectors() -> Tensor:
    """(125,) in symlog space."""
    knee = math.log1p(math.pi)
    positive = np.concatenate((np.linspace(0, knee, 32), np.linspace(knee, 6, 32)[1:]))
    return torch.tensor(np.concatenate((-positive[:0:-1], positive)))


def expected_scalar(logits: Tensor, limit: float) -> Tensor:
    edges = torch.linspace(-limit, limit, logits.shape[-1] + 1, dtype=logits.dtype)
    x = (logits.softmax(-1) * (edges[1:] + edges[:-1]) / 2).sum(-1)
    return x.sign() * torch.expm1(x.abs())


def scalar_loss(logits: Tensor, target: Tensor, limit: float) -> Tensor:
    """Cross-entropy with the histogram of a Gaussian around symlog of the target."""
    edges = torch.linspace(-limit, limit, logits.shape[-1] + 1, dtype=logits.dtype)
    sigma = 0.75 * 2 * limit / logits.shape[-1]
    y = (target.sign() * target.abs().log1p()).unsqueeze(-1)
    mass = torch.erf((edges - y) / (math.sqrt(2) * sigma)).diff()
    return -(mass / mass.sum(-1, keepdim=True) * logits.log_softmax(-1)).sum(-1)


def masked_mean(x: Tensor, mask: Tensor, *axes: int) -> Tensor:
    return (x * mask).sum(axes or None) / mask.sum(axes or None).clamp(min=1)


class Reference:
    """One computation under way."""

    def __init__(self, weights: Arrays, inputs: Arrays, settings: dict[str, Any]) -> None:
        self.weights, self.inputs, self.settings = doubled(weights), doubled(inputs), settings
        self.kinds = [kind for kind in KINDS if kind in settings["spaces"]]
        self.continuous = "continuous" in settings["action_space"]
        self.found: dict[str, Tensor] = {}

    def outputs(self) -> dict[str, Tensor]:
        for kind in self.kinds:
            self._tokenize(kind)
        parts = [self._embedded(kind) for kind in self.kinds]
        self.counts = [part.shape[2] for part in parts]
        blocks = torch.cat((*parts, self._embedded_actions()), 2)
        context, predictions = sequence_model(blocks, self.weights, self.settings, sum(self.counts))
        actions = context[:, :, sum(self.counts) :]
        self.found["token_embeddings"] = blocks
        self.found["latents"] = torch.cat((predictions, actions), 2).flatten(1, 2)
        self.found["imagination_latents"] = predictions[:, 2:]
        self._predict(predictions)
        self._losses()
        self._act()
        self._returns()
        return self.found

    # Small parts.

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def head(self, x: Tensor, name: str) -> Tensor:
        return self.linear(F.silu(self.norm(self.linear(x, f"{name}.0"), f"{name}.1")), f"{name}.3")

    def convolution(self, x: Tensor, name: str, **options: int) -> Tensor:
        return F.conv2d(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], **options)

    def activated(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.silu(F.group_norm(x, GROUPS, weight, bias, 1e-6))

    def numbered(self, template: str) -> list[str]:
        """Names with 0, 1, ... in the place of {}, as far as they exist."""
        found: list[str] = []
        while template.format(len(found)) in self.weights:
            found.append(template.format(len(found)))
        return found

    def mean_of_tables(self, template: str, ids: Tensor) -> Tensor:
        """Mean of one lookup a channel, ids (..., C)."""
        tables = [self.weights[name] for name in self.numbered(template)]
        return torch.stack([table[ids[..., c]] for c, table in enumerate(tables)]).mean(0)

    # Tokens.

    def _tokenize(self, kind: str) -> None:
        x = self.inputs[f"observations/{kind}"]
        if kind == "image":
            ids, codes = self._pictures(x)
        elif kind == "vector":
            levels = levels_of_vectors()
            ids = (x.unsqueeze(-1) - levels).abs().argmin(-1)
            codes = levels[ids]
        else:
            ids, codes = x, x.double()
        self.found[f"tokens/{kind}"], self.found[f"codes/{kind}"] = ids, codes

    def _pictures(self, x: Tensor) -> tuple[Tensor, Tensor]:
        encoder, shape = f"{PICTURES}encoder.cnn.", x.shape[:2]
        pictures = 2 * x.flatten(0, 1) - 1
        y = self.convolution(pictures, f"{encoder}0", padding=1)
        for name in self.numbered(f"{encoder}1.{{}}.0.weight"):
            stage = name.removesuffix(".0.weight")
            y = self.convolution(F.pad(self.activated(y, f"{stage}.0"), (0, 1, 0, 1)), f"{stage}.2.conv", stride=2)
        y = self.convolution(self.activated(y, f"{encoder}2.0"), f"{encoder}2.2", padding=1)
        ids, codes = self._quantized(y)
        decoded = self._decoded(codes)
        self.found["reconstruction/image"] = ((decoded + 1) / 2).unflatten(0, shape)
        first = slice(None, None, shape[1])  # the published losses are those of the first picture of each segment
        self.found["tokenizer_loss/reconstruction_loss"] = (decoded - pictures)[first].square().mean()
        if f"{PICTURES}embedding.weight" in self.weights:
            self.found["tokenizer_loss/commitment_loss"] = 2 * (codes - y)[first].square().mean()
        return ids.flatten(1).unflatten(0, shape), codes.unflatten(0, shape)

    def _quantized(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (N, D, rows, columns) -> ids (N, rows, columns), codes (N, D, rows, columns)."""
        if f"{PICTURES}embedding.weight" in self.weights:
            table, rows = self.weights[f"{PICTURES}embedding.weight"], y.movedim(1, -1)
            ids = torch.cdist(rows.flatten(0, -2), table).argmin(-1).view(rows.shape[:-1])
            return ids, table[ids].movedim(-1, 1)
        levels = self.weights[f"{PICTURES}fsq._levels"].double()
        half, offset = (levels - 1) * (1 - 1e-3) / 2, 0.5 * (levels % 2 == 0)
        z = self.convolution(y, f"{PICTURES}pre_quant_conv").movedim(1, -1)
        steps = (torch.tanh(z + torch.tan(offset / half)) * half - offset).round()
        ids = ((steps + levels // 2) * self.weights[f"{PICTURES}fsq._basis"]).sum(-1).long()
        return ids, self.convolution((steps / (levels // 2)).movedim(-1, 1), f"{PICTURES}post_quant_conv")

    def _decoded(self, codes: Tensor) -> Tensor:
        decoder = f"{PICTURES}decoder.cnn."
        opening = [self.weights.get(f"{decoder}0.0.{name}") for name in ("running_mean", "running_var")]
        affine = [self.weights[f"{decoder}0.0.{name}"] for name in ("weight", "bias")]
        if opening[0] is None:
            y = F.group_norm(codes, GROUPS, *affine, 1e-6)
        else:
            y = F.batch_norm(codes, *opening, *affine)
        y = self.convolution(y, f"{decoder}0.1", padding=1)
        for name in self.numbered(f"{decoder}1.{{}}.0.weight"):
            stage = name.removesuffix(".0.weight")
            y = F.interpolate(self.activated(y, f"{stage}.0"), scale_factor=2, mode="nearest-exact")
            y = self.convolution(y, f"{stage}.2.conv", padding=1)
        return self.convolution(self.activated(y, f"{decoder}2.0"), f"{decoder}2.2", padding=1)

    def _embedded(self, kind: str) -> Tensor:
        """(B, T, K, E) of the tokens of a kind."""
        ids, name = self.found[f"tokens/{kind}"], f"{MODEL}obs_embeddings.{kind}."
        if kind == "token_2d":
            return self.mean_of_tables(f"{name}embeddings.embeddings.{{}}.weight", ids)
        if f"{name}weight" in self.weights:
            return self.weights[f"{name}weight"][ids]
        codes = self.found["codes/image"].flatten(3).transpose(2, 3)
        return self.linear(codes, f"{MODEL}obs_emb_map") if f"{MODEL}obs_emb_map.weight" in self.weights else codes

    def _embedded_actions(self) -> Tensor:
        actions, table = self.inputs["actions"], self.weights[f"{MODEL}action_encoder.embedding.weight"]
        if not self.continuous:
            return table[actions].unsqueeze(2)
        levels = torch.linspace(-1, 1, len(table), dtype=actions.dtype)
        return table[(actions.unsqueeze(-1) - levels).abs().argmin(-1)]

    # What is read from predictions.

    def _predict(self, predictions: Tensor) -> None:
        summary = predictions[:, :, -1]
        hidden = F.silu(self.linear(summary, f"{MODEL}head_rewards.model.0"))
        self.reward_logits = self.linear(hidden, f"{MODEL}head_rewards.head.linear")
        self.found["reward"] = expected_scalar(self.reward_logits, REWARD_LIMIT)
        self.found["termination_logits"] = self.head(summary, f"{MODEL}head_ends")
        for kind, latents in zip(self.kinds, predictions.split(self.counts, 2)):
            self.found[f"observation_logits/{kind}"] = self.head(latents, f"{MODEL}head_observations.{kind}")
            members = self.numbered(f"{MODEL}curiosity_head.{kind}.ensemble.{{}}.0.weight")
            if members:
                logits = torch.stack([self.head(latents, name.removesuffix(".0.weight")) for name in members])
                self.found[f"ensemble_logits/{kind}"] = logits
                if len(self._channels(kind)) == 1:  # of several, the published code makes one soft-max (C6)
                    self.found[f"disagreement/{kind}"] = self._divergence(logits.softmax(-1))

    @staticmethod
    def _divergence(p: Tensor) -> Tensor:
        def entropy(q: Tensor) -> Tensor:
            return -torch.special.xlogy(q, q).sum(-1)

        return entropy(p.mean(0)) - entropy(p).mean(0)

    def _channels(self, kind: str) -> list[int]:
        """Number of logits of each channel of a token."""
        if kind == "token_2d":
            return list(self.settings["spaces"][kind][0])
        return [self.found[f"observation_logits/{kind}"].shape[-1]]

    def _token_loss(self, kind: str, logits: Tensor, rows: slice = slice(None)) -> Tensor:
        """(B, T) cross-entropies, summed over tokens and channels."""
        ids = self.found[f"tokens/{kind}"][rows]
        ids = ids if kind == "token_2d" else ids.unsqueeze(-1)
        parts = logits.split(self._channels(kind), -1)
        picked = [part.log_softmax(-1).gather(-1, ids[..., c : c + 1]) for c, part in enumerate(parts)]
        return -torch.cat(picked, -1).sum((-1, -2))

    def _losses(self) -> None:
        mask, tokens = self.inputs["mask_padding"].bool(), sum(self.counts)
        observed, pairs = mask.clone(), mask[:, 1:] & mask[:, :-1]
        observed[:, : self.settings["world_model"]["context_length"]] = False
        observation = sum(self._token_loss(kind, self.found[f"observation_logits/{kind}"]) for kind in self.kinds)
        observation = observation / tokens
        reward = scalar_loss(self.reward_logits[:, 1:], self.inputs["rewards"][:, :-1], REWARD_LIMIT)
        ends = self.inputs["ends"][:, :-1].long()
        end = F.cross_entropy(self.found["termination_logits"][:, 1:].transpose(1, 2), ends, reduction="none")
        losses = {
            "loss_obs": masked_mean(observation, observed),
            "loss_rewards": masked_mean(reward, pairs),
            "per_segment": masked_mean(observation, observed, 1) + masked_mean(reward, pairs, 1),
        }
        if f"{MODEL}_model.pred_tokens" in self.weights:  # the older agents expect ends a block too early (C1)
            losses["loss_ends"] = masked_mean(end, pairs)
        if f"ensemble_logits/{self.kinds[0]}" in self.found:
            losses["curiosity_loss"] = masked_mean(self._ensemble_loss() / tokens, observed)
        self.found.update({f"world_model_loss/{name}": loss for name, loss in losses.items()})

    def _ensemble_loss(self) -> Tensor:
        """(B, T): each member learns from its own share of the batch."""
        total = torch.zeros(())
        for kind in self.kinds:
            logits = self.found[f"ensemble_logits/{kind}"]
            share = logits.shape[1] // len(logits)
            rows = [slice(e * share, (e + 1) * share) for e in range(len(logits))]
            total = total + torch.cat([self._token_loss(kind, logits[e][own], own) for e, own in enumerate(rows)])
        return total

    # The policy.

    def _features(self, kind: str) -> Tensor:
        """(B, T, F) of what the policy reads of a kind."""
        codes, ids, name = self.found[f"codes/{kind}"], self.found[f"tokens/{kind}"], f"{AGENT}obs_encoders.{kind}."
        if kind == "vector":
            return codes
        if kind == "token":
            return self.weights[f"{name}embeddings.weight"][ids].flatten(2)
        if kind == "token_2d":
            return self.mean_of_tables(f"{name}embeddings.embeddings.embeddings.{{}}.weight", ids).flatten(2)
        y = codes.flatten(0, 1)
        for layer in self.numbered(f"{name}model.{{}}.0.weight"):
            y = F.silu(self.convolution(y, layer.removesuffix(".weight"), padding=1))
        return y.flatten(1).unflatten(0, codes.shape[:2])

    def _memory(self, fuser: str, part: str) -> Tensor:
        """(B, T, hidden) after each observation; then the memory is stepped with the action."""
        y, i = torch.cat([self._features(kind) for kind in self.kinds], -1), 0
        while f"{AGENT}{fuser}.{i}.weight" in self.weights:
            y = F.silu(self.norm(self.linear(y, f"{AGENT}{fuser}.{i}"), f"{AGENT}{fuser}.{i + 1}"))
            i += 3
        cell = torch.nn.LSTMCell(y.shape[-1], y.shape[-1]).double()
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        cell.load_state_dict({name: self.weights[f"{AGENT}{part}.lstm.{name}_l0"] for name in names})
        if self.continuous:
            actions = self.linear(self.inputs["actions"], f"{AGENT}{part}_action_projection")
        else:
            actions = self.weights[f"{AGENT}{part}_actions_embeddings.weight"][self.inputs["actions"]]
        state, after = None, []
        for t in range(y.shape[1]):
            state = cell(y[:, t], state)
            after.append(state[0])
            state = cell(actions[:, t], state)
        return torch.stack(after, 1)

    def _act(self) -> None:
        actor = self._memory("obs_latent_fuser", "actor")
        separate = f"{AGENT}critic_latent_fuser.0.weight" in self.weights
        critic = self._memory("critic_latent_fuser", "critic") if separate else actor
        logits = self.linear(actor, f"{AGENT}actor_linear{'.0' if self.continuous else ''}").unsqueeze(2)
        dimensions = self.inputs["actions"].shape[-1]
        self.found["policy_logits"] = logits.unflatten(-1, (dimensions, -1)) if self.continuous else logits
        self.found["values"] = expected_scalar(self.linear(critic, f"{AGENT}critic_v_head.linear"), VALUE_LIMIT)

    def _returns(self) -> None:
        rewards, values, ends = (self.inputs[f"returns_{name}"] for name in ("rewards", "values", "ends"))
        discount, lambda_ = self.settings["gamma"], self.settings["lambda_"]
        returns = [values[:, -1]]
        for t in range(rewards.shape[1] - 2, -1, -1):
            ahead = (1 - lambda_) * values[:, t + 1] + lambda_ * returns[0]
            returns.insert(0, rewards[:, t] + (1 - ends[:, t].double()) * discount * ahead)
        self.found["lambda_returns"] = torch.stack(returns, 1)
        updates = self.inputs["return_scale_inputs"]
        seen = [updates[: i + 1].flatten() for i in range(len(updates))]
        self.found["return_scale"] = torch.stack([x.quantile(0.975) - x.quantile(0.025) for x in seen])
