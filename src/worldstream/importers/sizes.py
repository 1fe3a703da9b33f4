"""Which sizes the shapes of published tensors show, by the settings that state them.

Nothing is built from these: where they differ from what is stated, they tell a user what to state.
"""

from __future__ import annotations

from math import prod
from typing import Any

from worldstream.importers.published import PublishedAgent
from worldstream.importers.tensors import ForeignTensors

_IMAGE, _ENCODER = "tokenizer.tokenizers.image.", "tokenizer.image.encoder.config"
_POLICY, _ENDS = "actor_critic.obs_encoders.", "world_model.head_ends.0."
AXES: dict[str, tuple[str, int, str]] = {
    "world_model.SEQUENCE.embed_dim": (f"{_ENDS}weight", 1, f"{_ENDS}bias"),
    "world_model.obs_emb_dim": ("world_model.obs_emb_map.weight", 1, ""),
    "actor_critic.obs_mlp_layer_sizes": (
        "actor_critic.obs_latent_fuser.{}.weight", 0, "actor_critic.obs_latent_fuser.{}.bias",
    ),
    "actor_critic.n_action_quant_levels": (
        "world_model.action_encoder.embedding.weight", 0, "actor_critic.actor_linear.0.bias",
    ),
    "actor_critic.num_value_bins": (
        "actor_critic.critic_v_head.linear.weight", 0, "actor_critic.critic_v_head.linear.bias",
    ),
    "actor_critic.tokens_embed_dim": (f"{_POLICY}token.embeddings.weight", 1, ""),
    "policy_convolutions": (f"{_POLICY}image.model.{{}}.0.weight", 0, f"{_POLICY}image.model.{{}}.0.bias"),
    "tokenizer.image.vocab_size": (f"{_IMAGE}embedding.weight", 0, "world_model.head_observations.image.3.bias"),
    f"{_ENCODER}.out_channels": (f"{_IMAGE}encoder.cnn.2.2.weight", 0, f"{_IMAGE}encoder.cnn.2.2.bias"),
    f"{_ENCODER}.out_channels_1st_layer": (f"{_IMAGE}encoder.cnn.0.weight", 0, f"{_IMAGE}encoder.cnn.0.bias"),
}  # fmt: skip
"""By setting: a tensor, one for each layer where there is a {}, the axis of that size, and a witness: another tensor
whose length is a multiple of it."""
NUMBERED = {
    "world_model.SEQUENCE.num_layers": "world_model._model.layers.",
    f"{_ENCODER}.num_downsample_steps": f"{_IMAGE}encoder.cnn.1.",
}
"""By setting: beginning of the names of tensors that count so many things."""


def advice(agent: PublishedAgent, tensors: ForeignTensors) -> str:
    """What a user should look at when tensors do not fit: settings of which they show another value."""
    differing = []
    for place, shown in shown_sizes(agent, tensors).items():
        stated: Any = agent.settings
        for name in place.split("."):
            stated = getattr(stated, name)
        if shown != stated:
            values = (list(value) if isinstance(value, tuple) else value for value in (shown, stated))
            differing.append("{} {} instead of {}".format(place, *values))
    if differing:
        return f"The tensors look as if the agent had {', '.join(differing)}: if so, say that in --settings FILE."
    return "Check that configuration and environment are those that the weights were trained with."


def shown_sizes(agent: PublishedAgent, tensors: ForeignTensors) -> dict[str, Any]:
    """What tensors show, by the place of the setting; without what they contradict each other about."""
    found: dict[str, Any] = {place: _axis(tensors, *row) for place, row in AXES.items()}
    for place, prefix in NUMBERED.items():
        numbers = tensors.numbers(prefix)
        found[place] = len(numbers) if numbers == list(range(len(numbers))) else None
    model = "world_model."
    if agent.parts.curious:
        counts = [len(tensors.numbers(f"{model}curiosity_head.{kind}.ensemble.")) for kind in agent.parts.kinds]
        found[f"{model}curiosity_ensemble_size"] = max(counts)
    # There is a rotary frequency for each pair of features of a head, or for each feature.
    pairs, each = tensors.look(f"{model}_model.rotary_emb.inv_freq"), f"{model}_model.layers.0.retention.thetas"
    head = 2 * pairs.numel() if agent.parts.attention else tensors.look(each).numel()
    width = found[f"{model}SEQUENCE.embed_dim"]
    found[f"{model}SEQUENCE.num_heads"] = width // head if width and head and width % head == 0 else None
    if "token_2d" in agent.parts.kinds:
        found["actor_critic.tokens_embed_dim"] = _axis(
            tensors, f"{_POLICY}token_2d.embeddings.embeddings.embeddings.0.weight", 1, ""
        )
    if bins := found["actor_critic.num_value_bins"]:
        found["actor_critic.num_value_bins"] = bins - 1
    levels = tuple(tensors.look(f"{_IMAGE}fsq._levels").flatten().tolist())
    if levels and prod(levels) == tensors.look(f"{model}head_observations.image.3.bias").numel():
        found["tokenizer.image.fsq_levels"] = levels
    if not agent.parts.continuous:
        del found["actor_critic.n_action_quant_levels"]
    return {place.replace("SEQUENCE", agent.sequence_part): value for place, value in found.items() if value}


def _axis(tensors: ForeignTensors, name: str, axis: int, witness: str) -> int | tuple[int, ...] | None:
    """Length of an axis, or of one of each layer; None where tensors contradict each other, or are missing."""
    prefix, layered, _ = name.partition("{}")
    sizes = []
    for i in tensors.numbers(prefix) if layered else [0]:
        tensor = tensors.look(name.format(i))
        if layered and tensor.ndim == 1 and len(tensor):  # of a norm between layers
            continue
        size = tensor.shape[axis] if tensor.ndim > 1 else 0
        if not size or (witness and (tensors.look(witness.format(i)).numel() or 1) % size):
            return None
        sizes.append(size)
    return tuple(sizes) if layered else sizes[0]
