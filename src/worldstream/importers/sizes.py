"""Which sizes the shapes of published tensors show, by the settings that state them.

Nothing is built from these: where they differ from what is stated, they tell a user what to state.
"""

from __future__ import annotations

from math import prod
from typing import Any

from worldstream.importers.published import AGENT, IMAGE, MODEL, PublishedAgent
from worldstream.importers.tensors import ForeignTensors
from worldstream.options import at

_ENCODER, _POLICY = "tokenizer.image.encoder.config", f"{AGENT}obs_encoders."
_FUSER, _LEVELS = f"{AGENT}obs_latent_fuser.{{}}.", f"{AGENT}actor_linear.0.bias"
AXES = (
    ("world_model.SEQUENCE.embed_dim", f"{MODEL}head_ends.0.weight", 1, f"{MODEL}head_ends.0.bias"),
    ("world_model.obs_emb_dim", f"{MODEL}obs_emb_map.weight", 1, ""),
    ("actor_critic.obs_mlp_layer_sizes", f"{_FUSER}weight", 0, f"{_FUSER}bias"),
    ("actor_critic.n_action_quant_levels", f"{MODEL}action_encoder.embedding.weight", 0, _LEVELS),
    ("actor_critic.num_value_bins", f"{AGENT}critic_v_head.linear.weight", 0, f"{AGENT}critic_v_head.linear.bias"),
    ("actor_critic.tokens_embed_dim", f"{_POLICY}token.embeddings.weight", 1, ""),
    ("actor_critic.tokens_embed_dim", f"{_POLICY}token_2d.embeddings.embeddings.embeddings.0.weight", 1, ""),
    ("policy_convolutions", f"{_POLICY}image.model.{{}}.0.weight", 0, f"{_POLICY}image.model.{{}}.0.bias"),
    ("tokenizer.image.vocab_size", f"{IMAGE}embedding.weight", 0, f"{MODEL}head_observations.image.3.bias"),
    (f"{_ENCODER}.out_channels", f"{IMAGE}encoder.cnn.2.2.weight", 0, f"{IMAGE}encoder.cnn.2.2.bias"),
    (f"{_ENCODER}.out_channels_1st_layer", f"{IMAGE}encoder.cnn.0.weight", 0, f"{IMAGE}encoder.cnn.0.bias"),
)  # fmt: skip
"""Setting, a tensor (one for each layer where there is a {}), its axis of that size, and a witness: another tensor
whose length is a multiple of it."""
NUMBERED = {
    "world_model.SEQUENCE.num_layers": "world_model._model.layers.",
    f"{_ENCODER}.num_downsample_steps": f"{IMAGE}encoder.cnn.1.",
}
"""By setting: beginning of the names of tensors that count so many things."""


def advice(agent: PublishedAgent, tensors: ForeignTensors) -> str:
    """What a user should look at when tensors do not fit: settings of which they show another value."""
    differing = []
    for place, shown in shown_sizes(agent, tensors).items():
        if shown != (stated := at(agent.settings, place)):
            values = (list(value) if isinstance(value, tuple) else value for value in (shown, stated))
            differing.append("{} {} instead of {}".format(place, *values))
    if differing:
        return f"The tensors look as if the agent had {', '.join(differing)}: if so, say that in --settings FILE."
    return "Check that configuration and environment are those that the weights were trained with."


def shown_sizes(agent: PublishedAgent, tensors: ForeignTensors) -> dict[str, Any]:
    """What tensors show, by the place of the setting; without what they contradict each other about."""
    found: dict[str, Any] = {}
    for place, name, axis, witness in AXES:
        if size := _axis(tensors, name, axis, witness):
            found[place] = size
    for place, prefix in NUMBERED.items():
        numbers = tensors.numbers(prefix)
        found[place] = len(numbers) if numbers == list(range(len(numbers))) else 0
    if agent.parts.curious:
        ensembles = (f"{MODEL}curiosity_head.{kind}.ensemble." for kind in agent.parts.observed)
        found["world_model.curiosity_ensemble_size"] = max(len(tensors.numbers(prefix)) for prefix in ensembles)
    # There is a rotary frequency for each pair of features of a head, or for each feature.
    pairs = tensors.look(f"{MODEL}_model.rotary_emb.inv_freq")
    each = tensors.look(f"{MODEL}_model.layers.0.retention.thetas")
    head, width = 2 * pairs.numel() or each.numel(), found.get("world_model.SEQUENCE.embed_dim", 0)
    found["world_model.SEQUENCE.num_heads"] = width // head if head and width % head == 0 else 0
    if "actor_critic.num_value_bins" in found:
        found["actor_critic.num_value_bins"] -= 1
    levels = tuple(tensors.look(f"{IMAGE}fsq._levels").flatten().tolist())
    if prod(levels) == tensors.look(f"{MODEL}head_observations.image.3.bias").numel():
        found["tokenizer.image.fsq_levels"] = levels
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
        length = tensors.look(witness.format(i)).numel() if witness else size
        if not size or not length or length % size:
            return None
        sizes.append(size)
    return tuple(sizes) if layered else sizes[0]
