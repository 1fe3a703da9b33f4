"""Modalities: what an observation key *is* (space -> storage, tensor, picture). Nothing here learns.

Torch is imported only when tensors are asked for, so that processes which merely run environments stay light.
"""

from worldstream.modalities.base import Modality
from worldstream.modalities.observation import ObservationAdapter
from worldstream.modalities.registry import MODALITIES, build

__all__ = ["MODALITIES", "Modality", "ObservationAdapter", "build"]
