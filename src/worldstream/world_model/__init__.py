"""The world model: embeds blocks of tokens, runs a sequence model over them, predicts the next block with heads."""

from worldstream.registry import Registry

SEQUENCE_MODELS = Registry(
    "sequence model",
    {
        "retention": "worldstream.world_model.sequence.retention:RetentionModel",
        "attention": "worldstream.world_model.sequence.attention:AttentionModel",
    },
)

HEADS = Registry(
    "head",
    {
        "tokens": "worldstream.world_model.heads.tokens:TokenHead",
        "reward": "worldstream.world_model.heads.reward:RewardHead",
        "termination": "worldstream.world_model.heads.termination:TerminationHead",
        "disagreement": "worldstream.world_model.heads.disagreement:DisagreementHead",
    },
)
