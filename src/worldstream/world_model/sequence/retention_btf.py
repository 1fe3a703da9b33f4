"""Retention with block teacher forcing: constant cost per imagined step, memory that fades from block to block."""

from __future__ import annotations

from dataclasses import dataclass

from worldstream.world_model.block import BlockLayout
from worldstream.world_model.sequence.base import AnySequenceModel
from worldstream.world_model.sequence.readout import Readout, SummaryOfBlock
from worldstream.world_model.sequence.retention import RetentionOptions, RetentionStack
from worldstream.world_model.sequence.teacher_forcing import BlockTeacherForcing


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionBTFConfig(RetentionOptions):
    """Retention with block teacher forcing: a fading memory, and no prediction tokens."""

    summary: SummaryOfBlock = "action"
    """Which tokens rewards and ends are read from."""

    def build(self, layout: BlockLayout, *, max_blocks: int) -> AnySequenceModel:
        stack = RetentionStack(self, layout, num_predictions=0, full=True)
        readout = Readout(self, layout, num_positions=layout.length, summary=self.summary)
        return BlockTeacherForcing(stack, readout, self.width)
