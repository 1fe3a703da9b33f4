"""Random weights, inputs and settings of a published agent of any size, named and shaped as in its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from math import prod
from operator import mul
from typing import Any

import torch
from torch import Tensor

from parity.reference.names import AGENT, KINDS, MODEL, PICTURES, SEQUENCE, Arrays

NUM_LEVELS = 125
REWARD_BINS = 129


@dataclass(frozen=True, kw_only=True)
class ImageSize:
    """Of the image tokenizer and of the policy's convolutions over its codes."""

    first: int = 8
    """Channels of the first convolution; each halving doubles them."""
    halvings: int = 3
    code: int = 16
    codes: int = 32
    levels: tuple[int, ...] = ()
    """FSQ; empty: VQ."""
    batch_norm: bool = True
    convolutions: tuple[int, ...] = (8, 4)
    shared: bool = True
    """Pictures are embedded by their codes."""


@dataclass(frozen=True, kw_only=True)
class AgentSize:
    """Of a published agent, in the words of its settings where it has any."""

    spaces: dict[str, Any]
    """image: [1, c, h, w]; vector: [D]; token: [V, V, ...]; token_2d: one list of V per cell."""
    actions: dict[str, int]
    """{"discrete": A} or {"continuous": dimensions}."""
    attention: bool = False
    slots: str = "causal"
    decay: tuple[float, float] = (4, 16)
    layers: int = 2
    heads: int = 2
    width: int = 32
    image: ImageSize = field(default_factory=ImageSize)
    hidden: tuple[int, ...] = (24,)
    token_width: int = 4
    separate: bool = False
    members: int = 4
    action_levels: int = 51
    value_bins: int = 129
    code_width: int = 256
    """Width of codes where there are no pictures, and none are read."""
    context: int = 2
    discount: float = 0.99
    lambda_: float = 0.95

    @property
    def kinds(self) -> list[str]:
        return [kind for kind in KINDS if kind in self.spaces]

    @property
    def continuous(self) -> bool:
        return "continuous" in self.actions

    @property
    def num_actions(self) -> int:
        """Categories, or dimensions."""
        return next(iter(self.actions.values()))

    @property
    def action_tokens(self) -> int:
        return self.num_actions if self.continuous else 1

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens of one observation by kind."""
        found = {kind: len(self.spaces[kind]) for kind in self.kinds}
        if "vector" in found:
            found["vector"] = self.spaces["vector"][0]
        if "image" in found:
            height, width = self.spaces["image"][2:]
            found["image"] = (height >> self.image.halvings) * (width >> self.image.halvings)
        return found

    @property
    def vocabulary(self) -> dict[str, int]:
        """Logits of one token by kind."""
        sizes = {"image": prod(self.image.levels) if self.image.levels else self.image.codes, "vector": NUM_LEVELS}
        for kind in self.kinds:
            if kind in ("token", "token_2d"):
                first = self.spaces[kind][0]  # the published agent takes the first entry for all (C29)
                sizes[kind] = first if kind == "token" else sum(first)
        return sizes

    @property
    def block_length(self) -> int:
        return sum(self.tokens.values()) + self.action_tokens


class Checkpoint:
    """Draws the tensors of an agent in ``weights``; one method for each of its parts."""

    def __init__(self, size: AgentSize, seed: int = 0) -> None:
        self.size, self.generator = size, torch.Generator().manual_seed(seed)
        self.weights: dict[str, Tensor] = {}
        if "image" in size.spaces:
            self._tokenizer()
        self._embeddings()
        self._attention() if size.attention else self._retention()
        self._heads()
        self._actor_critic()

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def linear(self, name: str, fan_out: int, fan_in: int, *, bias: bool = True) -> None:
        self.weights[f"{name}.weight"] = self.draw(fan_out, fan_in) * fan_in**-0.5
        if bias:
            self.weights[f"{name}.bias"] = 0.1 * self.draw(fan_out)

    def norm(self, name: str, width: int) -> None:
        self.weights[f"{name}.weight"] = 1 + 0.1 * self.draw(width)
        self.weights[f"{name}.bias"] = 0.1 * self.draw(width)

    def convolution(self, name: str, fan_out: int, fan_in: int, side: int = 3) -> None:
        self.weights[f"{name}.weight"] = self.draw(fan_out, fan_in, side, side) * (fan_in * side**2) ** -0.5
        self.weights[f"{name}.bias"] = 0.1 * self.draw(fan_out)

    def head(self, name: str, hidden: int, fan_out: int) -> None:
        self.linear(f"{name}.0", hidden, self.size.width)
        self.norm(f"{name}.1", hidden)
        self.linear(f"{name}.3", fan_out, hidden)

    def _tokenizer(self) -> None:
        image, colours = self.size.image, self.size.spaces["image"][1]
        channels = [image.first << i for i in range(image.halvings + 1)]
        encoder, decoder = f"{PICTURES}encoder.cnn.", f"{PICTURES}decoder.cnn."
        self.convolution(f"{encoder}0", channels[0], colours)
        for i in range(image.halvings):
            self.norm(f"{encoder}1.{i}.0", channels[i])
            self.convolution(f"{encoder}1.{i}.2.conv", channels[i + 1], channels[i])
        self.norm(f"{encoder}2.0", channels[-1])
        self.convolution(f"{encoder}2.2", image.code, channels[-1])
        if image.levels:
            basis = list(accumulate((1, *image.levels[:-1]), mul))
            self.weights[f"{PICTURES}fsq._levels"] = torch.tensor(image.levels)
            self.weights[f"{PICTURES}fsq._basis"] = torch.tensor(basis)
            self.convolution(f"{PICTURES}pre_quant_conv", len(image.levels), image.code, 1)
            self.convolution(f"{PICTURES}post_quant_conv", image.code, len(image.levels), 1)
        else:
            self.weights[f"{PICTURES}embedding.weight"] = self.draw(image.codes, image.code)
        self.norm(f"{decoder}0.0", image.code)
        if image.batch_norm:
            self.weights[f"{decoder}0.0.running_mean"] = 0.1 * self.draw(image.code)
            self.weights[f"{decoder}0.0.running_var"] = 1 + 0.1 * self.draw(image.code).abs()
            self.weights[f"{decoder}0.0.num_batches_tracked"] = torch.tensor(5)
        self.convolution(f"{decoder}0.1", channels[-1], image.code)
        for i, (wide, narrow) in enumerate(zip(channels[::-1], channels[-2::-1])):
            self.norm(f"{decoder}1.{i}.0", wide)
            self.convolution(f"{decoder}1.{i}.2.conv", narrow, wide)
        self.norm(f"{decoder}2.0", channels[0])
        self.convolution(f"{decoder}2.2", colours, channels[0])

    def _embeddings(self) -> None:
        size, prefix = self.size, MODEL
        for kind in size.kinds:
            if kind == "token_2d":
                for c, values in enumerate(size.spaces[kind][0]):
                    name = f"{prefix}obs_embeddings.token_2d.embeddings.embeddings.{c}.weight"
                    self.weights[name] = self.draw(values, size.width)
            elif kind != "image" or not size.image.shared:
                self.weights[f"{prefix}obs_embeddings.{kind}.weight"] = self.draw(size.vocabulary[kind], size.width)
        code = size.image.code if "image" in size.spaces else size.code_width
        if code != size.width:
            self.linear(f"{prefix}obs_emb_map", size.width, code)
        if size.continuous:  # of actions that are not cut into levels; never read
            self.linear(f"{prefix}action_encoder.action_projection", size.width, size.num_actions)
        rows = size.action_levels if size.continuous else size.num_actions
        self.weights[f"{prefix}action_encoder.embedding.weight"] = self.draw(rows, size.width)

    def _retention(self) -> None:
        size = self.size
        self.weights[f"{MODEL}placeholder_embeddings.weight"] = self.draw(size.block_length, size.width)
        thetas = 1 / 10_000 ** torch.linspace(0, 1, size.width // size.heads // 2)
        for i in range(size.layers):
            prefix = f"{SEQUENCE}layers.{i}."
            self.norm(f"{prefix}norm1", size.width)
            self.norm(f"{prefix}norm2", size.width)
            self.weights[f"{prefix}retention.thetas"] = thetas.repeat_interleave(2)
            for part in ("q_proj", "k_proj", "v_proj", "g_proj", "out_proj"):
                self.linear(f"{prefix}retention.{part}", size.width, size.width)
            self.linear(f"{prefix}linear1", 4 * size.width, size.width)
            self.linear(f"{prefix}linear2", size.width, 4 * size.width)

    def _attention(self) -> None:
        size, pairs = self.size, self.size.width // self.size.heads // 2
        self.weights[f"{SEQUENCE}pred_tokens"] = 0.5 * self.draw(sum(size.tokens.values()), size.width)
        self.weights[f"{SEQUENCE}embed.weight"] = self.draw(1, size.width)  # never read
        self.weights[f"{SEQUENCE}obs_head.weight"] = self.draw(1, size.width)  # never read
        self.weights[f"{SEQUENCE}rotary_emb.inv_freq"] = 1 / 10_000 ** (torch.arange(pairs) / pairs)
        for i in range(size.layers):
            prefix = f"{SEQUENCE}layers.{i}."
            self.norm(f"{prefix}norm1", size.width)
            self.norm(f"{prefix}norm2", size.width)
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                self.linear(f"{prefix}self_attn.{part}", size.width, size.width, bias=False)
            self.linear(f"{prefix}ff.0", 4 * size.width, size.width)
            self.linear(f"{prefix}ff.2", size.width, 4 * size.width)

    def _heads(self) -> None:
        size, prefix = self.size, MODEL
        for kind in size.kinds:
            self.head(f"{prefix}head_observations.{kind}", 2 * size.width, size.vocabulary[kind])
            for e in range(size.members):
                self.head(f"{prefix}curiosity_head.{kind}.ensemble.{e}", 2 * size.width, size.vocabulary[kind])
        self.linear(f"{prefix}head_rewards.model.0", 2 * size.width, size.width)
        self.linear(f"{prefix}head_rewards.head.linear", REWARD_BINS, 2 * size.width)
        self.head(f"{prefix}head_ends", size.width, 2)

    def _actor_critic(self) -> None:
        size, prefix, hidden = self.size, AGENT, self.size.hidden[-1]
        features = sum(self._encoder(kind) for kind in size.kinds)
        for fuser, part in (("obs_latent_fuser", "actor"), ("critic_latent_fuser", "critic"))[: 1 + size.separate]:
            for i, (fan_in, fan_out) in enumerate(zip((features, *size.hidden), size.hidden)):
                self.linear(f"{prefix}{fuser}.{3 * i}", fan_out, fan_in)
                self.norm(f"{prefix}{fuser}.{3 * i + 1}", fan_out)
            for gates in ("ih", "hh"):
                self.weights[f"{prefix}{part}.lstm.weight_{gates}_l0"] = (
                    self.draw(4 * hidden, hidden) * hidden**-0.5
                )  # fmt: skip
                self.weights[f"{prefix}{part}.lstm.bias_{gates}_l0"] = 0.1 * self.draw(4 * hidden)
            if size.continuous:
                self.linear(f"{prefix}{part}_action_projection", hidden, size.num_actions)
            else:
                self.weights[f"{prefix}{part}_actions_embeddings.weight"] = self.draw(size.num_actions, hidden)
        if size.continuous:
            self.linear(f"{prefix}actor_linear.0", size.num_actions * size.action_levels, hidden)
        else:
            self.linear(f"{prefix}actor_linear", size.num_actions, hidden)
        self.linear(f"{prefix}critic_v_head.linear", size.value_bins, hidden)

    def _encoder(self, kind: str) -> int:
        """Number of features that the policy reads of a kind."""
        size, prefix, width = self.size, f"{AGENT}obs_encoders.{kind}.", 1
        if kind == "image":
            width = size.image.code
            for i, channels in enumerate(size.image.convolutions):
                self.convolution(f"{prefix}model.{i}.0", channels, width)
                width = channels
        elif kind == "token":
            width = size.token_width
            self.weights[f"{prefix}embeddings.weight"] = self.draw(size.vocabulary[kind], width)
        elif kind == "token_2d":
            width = size.token_width
            for c, values in enumerate(size.spaces[kind][0]):
                self.weights[f"{prefix}embeddings.embeddings.embeddings.{c}.weight"] = self.draw(values, width)
        return width * size.tokens[kind]


def settings_of(size: AgentSize) -> dict[str, Any]:
    """The JSON beside the weights, as far as it matters."""
    common = {"num_layers": size.layers, "num_heads": size.heads, "embed_dim": size.width}
    model: dict[str, Any] = {
        "context_length": size.context,
        "shared_embeddings": size.image.shared,
        "obs_emb_dim": size.image.code if "image" in size.spaces else size.code_width,
    }
    if size.attention:
        model["transformer"] = {**common, "pos_enc": "rotary", "pred_self_mask": size.slots}
    else:
        spans = dict(zip(("decay_scale_min_num_blocks", "decay_scale_max_num_blocks"), size.decay))
        model["retnet"] = {**common, "mask_type": "autoregressive", **spans}
    return {
        "world_model": model,
        "actor_critic": {
            "obs_mlp_layer_sizes": list(size.hidden),
            "num_value_bins": size.value_bins - 1,
            "tokens_embed_dim": size.token_width,
        },
        "gamma": size.discount,
        "lambda_": size.lambda_,
        "spaces": size.spaces,
        "action_space": size.actions,
    }


def inputs_of(size: AgentSize, *, segments: int = 4, blocks: int = 6, seed: int = 0) -> dict[str, Tensor]:
    """Observations, actions and rewards: the second segment ends early, and then is padded."""
    generator = torch.Generator().manual_seed(seed)
    shape = (segments, blocks)
    found: dict[str, Tensor] = {}
    for kind in size.kinds:
        space = size.spaces[kind]
        if kind == "image":
            x = torch.rand(*shape, *space[1:], generator=generator)
        elif kind == "vector":
            x = 2 * torch.randn(*shape, *space, generator=generator)
        elif kind == "token":
            x = torch.randint(0, space[0], (*shape, len(space)), generator=generator)
        else:
            columns = [torch.randint(0, values, (*shape, len(space)), generator=generator) for values in space[0]]
            x = torch.stack(columns, -1)
        found[f"observations/{kind}"] = x
    found["actions"] = (
        2 * torch.rand(*shape, size.num_actions, generator=generator) - 1
        if size.continuous
        else torch.randint(0, size.num_actions, shape, generator=generator)
    )
    found["rewards"] = torch.randn(*shape, generator=generator)
    found["ends"] = torch.zeros(shape, dtype=torch.int64)
    found["ends"][1, max(blocks - 3, 0)] = 1
    found["mask_padding"] = torch.ones(shape, dtype=torch.bool)
    found["mask_padding"][1, -1] = False
    found["returns_rewards"], found["returns_values"] = torch.randn(2, segments, 9, generator=generator)
    found["returns_ends"] = torch.rand(segments, 9, generator=generator) < 0.2
    found["return_scale_inputs"] = torch.randn(8, 64, generator=generator) * 2.0 ** torch.arange(8)[:, None]
    return found


def arrays(tensors: dict[str, Tensor]) -> Arrays:
    return {name: tensor.numpy() for name, tensor in tensors.items()}
