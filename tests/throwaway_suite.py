"""A suite as somebody would add it: this file, and one line in the registry of suites."""

import gymnasium

from worldstream.environments.suite.registered import GymSuite


def register() -> None:
    """What a package with environments does."""
    gymnasium.register(
        "Throwaway/Clock-v0", entry_point="worldstream.environments.toy.clock:Clock", max_episode_steps=20
    )


SUITE = GymSuite(
    prefixes=("Throwaway/",),
    package="gymnasium",
    register="throwaway_suite:register",
    example="Throwaway/Clock-v0",
    action_repeat=2,
)
