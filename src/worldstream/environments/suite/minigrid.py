"""MiniGrid and BabyAI (extra ``minigrid``): the egocentric image is a grid of (object, colour, state) cells.

MiniGrid declares 0..255 for every channel. What occurs: objects 0..10, colours 0..5, and as state a door's 0..2 or,
with a fully observable view, the agent's direction 0..3. BabyAI prints a line for each level that it rejects.
"""

from worldstream.environments.suite.registered import GymSuite

SUITE = GymSuite(
    prefixes=("MiniGrid-", "BabyAI-"),
    package="minigrid",
    extra="minigrid",
    example="MiniGrid-DoorKey-5x5-v0",
    preset="grid",
    modality={"image": "grid:11,6,4", "mission": "ignore"},
    quiet=True,
)
