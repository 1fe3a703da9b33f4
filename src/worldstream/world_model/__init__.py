"""The world model: embeds blocks of tokens, runs a sequence model over them, predicts the next block with heads."""

from worldstream.registry import Registry

SEQUENCE_MODELS = Registry(
    "sequence model",
    {
        "retention": "worldstream.world_model.sequence.retention:RetentionConfig",
        "attention": "worldstream.world_model.sequence.attention:AttentionConfig",
        "retention_btf": "worldstream.world_model.sequence.retention_btf:RetentionBTFConfig",
        "attention_btf": "worldstream.world_model.sequence.attention_btf:AttentionBTFConfig",
    },
)

DEFAULT_SEQUENCE_MODEL = "retention"

HEADS = Registry(
    "head",
    {
        "observation": "worldstream.world_model.heads.observation:ObservationConfig",
        "reward": "worldstream.world_model.heads.reward:RewardConfig",
        "termination": "worldstream.world_model.heads.termination:TerminationConfig",
        "disagreement": "worldstream.world_model.heads.disagreement:DisagreementConfig",
        "novelty": "worldstream.world_model.heads.novelty:NoveltyConfig",
    },
)

DEFAULT_HEADS = ("observation", "reward", "termination", "disagreement")
