"""Attention with block teacher forcing: exact memory at a growing cost, in half of the tokens."""

from __future__ import annotations

from dataclasses import dataclass

from worldstream.nn.attention import BlockMasks
from worldstream.world_model.block import BlockLayout
from worldstream.world_model.sequence.attention import AttentionOptions, AttentionStack
from worldstream.world_model.sequence.base import AnySequenceModel
from worldstream.world_model.sequence.readout import Readout, SummaryOfBlock
from worldstream.world_model.sequence.teacher_forcing import BlockTeacherForcing


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionBTFConfig(AttentionOptions):
    """Attention with block teacher forcing: an exact memory, and no prediction tokens."""

    summary: SummaryOfBlock = "action"
    """Which tokens rewards and ends are read from."""

    def build(self, layout: BlockLayout, *, max_blocks: int) -> AnySequenceModel:
        stack = AttentionStack(self, layout, BlockMasks(layout.length, 0, max_blocks=max_blocks, full_context=True))
        readout = Readout(self, layout, num_positions=layout.length, summary=self.summary)
        return BlockTeacherForcing(stack, readout, self.width)
