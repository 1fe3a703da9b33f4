"""BlockLayout: the one owner of position arithmetic.

One block is one environment step::

    | key_1: K_1 tokens | key_2: K_2 tokens | ... | action: M tokens |
    '------------- n observation tokens ---------'------- m --------'     L = n + m

A prediction has n latents, one for each observation token of the *next* block, in the same order. The last latent, the
n-th or an additional one, is at the same time the summary, which has seen everything before that block.
"""

from __future__ import annotations

from dataclasses import dataclass

from worldstream.specs import ActionSpec, TokenSpec

SUMMARY = "<summary>"
"""Name, other than that of any key, of the last prediction position, which stands for the block as a whole."""


@dataclass(frozen=True)
class BlockLayout:
    """Positions of one block: the tokens of each observation key, in this order, then those of the action."""

    token_specs: dict[str, TokenSpec]
    action_spec: ActionSpec

    @property
    def num_observation_tokens(self) -> int:
        """n, tokens of all observation keys."""
        return sum(spec.num_tokens for spec in self.token_specs.values())

    @property
    def num_action_tokens(self) -> int:
        """m, tokens of the action."""
        return self.action_spec.num_tokens

    @property
    def length(self) -> int:
        """L = n + m, tokens of a block."""
        return self.num_observation_tokens + self.num_action_tokens

    def positions(self, name: str) -> slice:
        """Prediction positions of an observation key, or of ``SUMMARY`` (the last one). KeyError otherwise."""
        if name == SUMMARY:
            return slice(-1, None)
        start = 0
        for key, spec in self.token_specs.items():
            if key == name:
                return slice(start, start + spec.num_tokens)
            start += spec.num_tokens
        raise KeyError(name)

    def coordinates(self) -> list[tuple[int, int]]:
        """(row, column) of each of the L positions inside of its block.

        Tokens of a grid keep their rows and columns; tokens without one stand on the diagonal. Each key begins
        beyond the largest row and column of the keys before it, so that no two positions coincide.
        """
        placed: list[tuple[int, int]] = []
        start = 0
        runs = [(spec.num_tokens, spec.grid) for spec in self.token_specs.values()] + [(self.num_action_tokens, None)]
        for count, grid in runs:
            columns = grid[1] if grid is not None else 0
            own = [divmod(k, columns) if grid is not None else (k, k) for k in range(count)]
            placed += [(start + row, start + column) for row, column in own]
            start = 1 + max((max(place) for place in placed), default=-1)
        return placed
