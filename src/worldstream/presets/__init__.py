"""Presets: Python functions that return complete configurations. Variants call another preset and replace fields."""

from worldstream.registry import Registry

PRESETS = Registry(
    "preset",
    {
        "demo": "worldstream.presets.demo:demo",
        "control": "worldstream.presets.control:control",
        "grid": "worldstream.presets.grid:grid",
        "keys": "worldstream.presets.keys:keys",
        "cameras": "worldstream.presets.cameras:cameras",
        "atari100k": "worldstream.presets.atari:atari100k",
        "atari-sticky": "worldstream.presets.atari:atari_sticky",
        "atari-small": "worldstream.presets.atari:atari_small",
        "atari-exact": "worldstream.presets.atari:atari_exact",
    },
)
