"""What every suite keeps: true spaces, determinism under a seed, Gymnasium's protocol, import without its extra."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from worldstream.environments import (
    ENVIRONMENTS,
    EnvironmentConfig,
    FlatEnvironment,
    check,
    make_environment,
    resolve,
)
from worldstream.models import Models
from worldstream.presets import PRESETS

THROWAWAY = {"throwaway": "throwaway_suite:SUITE"}
"""The registry line of a suite that is nowhere else but in its file."""


@pytest.fixture(params=[*ENVIRONMENTS, *THROWAWAY])
def suite(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ENVIRONMENTS, "_entries", {**THROWAWAY, **ENVIRONMENTS._entries})
    suite = ENVIRONMENTS[request.param]
    if suite.package:
        pytest.importorskip(suite.package)
    return suite


def rollout(environment: FlatEnvironment, seed: int, steps: int = 60) -> list:
    rng = np.random.default_rng(seed)
    rows: list = [environment.reset(seed=seed)[0]]
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = environment.step(rng.integers(environment.action_spec.sizes))
        rows += [observation, reward, terminated, truncated]
        if terminated or truncated:
            rows.append(environment.reset()[0])
    return rows


def run_fresh(code: str) -> str:
    """What ``code`` prints in a new interpreter that finds the same modules."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_example_is_claimed_by_its_own_suite(suite) -> None:
    assert next(other for other in ENVIRONMENTS.values() if other.claims(suite.example)) is suite


def test_suited_preset_reads_the_example(suite) -> None:
    config = PRESETS[resolve(suite.example).suite.preset]()
    environment = make_environment(suite.example, config.environment)
    models = Models(config, environment.observation_specs, environment.action_spec)
    stored = {key: value[None] for key, value in environment.reset(seed=0)[0].items()}
    ids = models.tokenizers.encode_arrays(stored)
    assert set(ids) == set(models.tokenizers.specs)
    environment.close()


def test_protocol_and_spaces(suite) -> None:
    environment = make_environment(suite.example)
    check(environment, steps=50)
    observation, _ = environment.reset(seed=0)
    assert environment.observation_space.contains(observation)
    assert list(observation) == list(environment.observation_specs)
    for key, spec in environment.observation_specs.items():
        assert observation[key].shape == spec.shape and observation[key].dtype == spec.dtype
    environment.close()


def test_deterministic_under_seed(suite) -> None:
    first, second = (rollout(make_environment(suite.example), seed=3) for _ in range(2))
    np.testing.assert_equal(first, second)


def test_time_limit_truncates(suite) -> None:
    environment = make_environment(suite.example, EnvironmentConfig(max_episode_steps=2 * suite.action_repeat))
    environment.reset(seed=0)
    ids = np.zeros(environment.action_spec.num_tokens, np.int64)
    assert not any(environment.step(ids)[2:4])
    assert environment.step(ids)[2:4] == (False, True)


def test_renders_when_asked(suite) -> None:
    pytest.importorskip("pygame")
    environment = make_environment(suite.example, render_mode="rgb_array")
    environment.reset(seed=0)
    picture = environment.render()
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    environment.close()


@pytest.mark.parametrize("name", [name for name, suite in ENVIRONMENTS.items() if suite.package])
def test_package_imports_without_the_extra(name: str) -> None:
    package = ENVIRONMENTS[name].package
    code = f"""
import sys
sys.modules[{package!r}] = None
from worldstream.environments import ENVIRONMENTS, make_environment
from worldstream.errors import EnvironmentFault
make_environment("clock").reset()
try:
    make_environment(ENVIRONMENTS[{name!r}].example)
except EnvironmentFault as error:
    assert ENVIRONMENTS[{name!r}].installation in str(error), error
    assert "pip install worldstream[{name}]" in str(error), error
else:
    raise AssertionError("no fault")
"""
    run_fresh(code)


def test_environments_do_not_import_torch() -> None:
    """Worker processes only run environments; a second of import time and memory for torch would be wasted."""
    code = "import sys, worldstream.environments as w; w.make_environment('keys'); print('torch' in sys.modules)"
    assert run_fresh(code).strip() == "False"
