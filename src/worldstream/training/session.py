"""One sitting of a run: trains, keeps its files, and stops in order when it is told to.

A run is interrupted by SIGINT, SIGTERM or a limit of wall time: the update under way is finished, a checkpoint is
written, and ``Interrupted`` says how to go on. A second SIGINT leaves at once; what was saved stays good.
"""

from __future__ import annotations

import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from worldstream.config import Config
from worldstream.errors import EnvironmentFault, Interrupted, RunFolderError, WorldstreamError, warn
from worldstream.evaluation.evaluate import Evaluation, evaluate
from worldstream.evaluation.recording import record_episodes, save_episodes
from worldstream.line_log import LineLog
from worldstream.models import save_weights
from worldstream.run_folder import RunFolder
from worldstream.training.cadence import Every
from worldstream.training.checkpoint import Checkpoints
from worldstream.training.metrics import MetricLog
from worldstream.training.skipped import SkippedUpdate, save_skipped
from worldstream.training.trainer import Trainer

RECORDED_EPISODES = 5
"""Real episodes kept at the end of a run for the report."""


class Session:
    """A trainer and the files of its run.

    Args:
        folder: of the run; run.json has been written.
        environment: name or factory.
        config: of the run.
        seed: of the run.
        steps: environment steps at which the run is finished.
        device: where networks live.
        time_limit: seconds of wall time after which this sitting ends; None: no limit.
    """

    def __init__(
        self,
        folder: RunFolder,
        environment: Any,
        config: Config,
        *,
        seed: int,
        steps: int,
        device: torch.device,
        time_limit: float | None = None,
    ) -> None:
        self.folder, self.environment, self.config = folder, environment, config
        self.seed, self.steps = seed, steps
        self._time_limit = time_limit
        self._began = time.monotonic()
        self._earlier_seconds = 0.0
        self._best = float("-inf")
        self._stop: str | None = None
        self._metrics, self._evaluations = LineLog(folder.metrics), LineLog(folder.evaluations)
        self._sittings = LineLog(folder.sittings)
        self._metric_log: MetricLog | None = None
        self._checkpoints = Checkpoints(folder, config.checkpoint.keep)
        self._checkpoint_due = Every(config.checkpoint.every_steps)
        self._saved_steps = -1  # of the newest checkpoint, and what replay counted then
        self._saved_numbers: Any = None
        self.trainer = Trainer(
            config,
            environment,
            seed=seed,
            device=device,
            on_metrics=self._on_metrics,
            on_evaluation=self._on_evaluation,
            on_fault=functools.partial(self._on_fault, "training"),
            on_skipped=self._on_skipped,
            after_step=self._after_step,
        )

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, earlier sittings included."""
        return self._earlier_seconds + time.monotonic() - self._began

    def restore(self) -> int:
        """Continue from the newest checkpoint, or from the beginning when there is none yet.

        What was logged after it is cut off, and will be logged again.

        Returns:
            environment steps taken.

        Raises RunFolderError when no checkpoint is intact, or it does not fit the run.
        """
        checkpoint = self._checkpoints.latest()
        if checkpoint is None:
            for log in (self._metrics, self._evaluations):
                log.cut(0)
            return 0
        state = checkpoint.state
        try:
            closed = self.trainer.load_state_dict(state["trainer"], checkpoint.replay_parts())
        except (KeyError, ValueError, RuntimeError) as error:
            raise RunFolderError(
                f"checkpoint {checkpoint.steps} of {self.folder.path} does not fit the run: {error}"
            ) from error
        self._metrics.cut(state["metrics"])
        self._evaluations.cut(state["evaluations"])
        self._earlier_seconds, self._best = state["seconds"], state["best"]
        self._checkpoint_due.load_state_dict(state["checkpoint_due"])
        self._saved_steps, self._saved_numbers = checkpoint.steps, state["trainer"]["replay"]["next_numbers"]
        self._record("resumed", truncated=closed)
        if closed:
            warn(f"{closed} episodes were under way whose environment cannot give its state; they count as truncated.")
        return checkpoint.steps

    def run(self, display: Callable[[dict[str, Any]], None]) -> Evaluation:
        """Train to the end, evaluate, and leave weights and recorded episodes.

        Args:
            display: called with each record of metrics.

        Raises:
            Interrupted: told to stop; a checkpoint was written.
            EnvironmentFault, DivergedError: what was learned until then is kept.
            RunFolderError: the files of the run cannot be written.
        """
        trainer = self.trainer
        try:
            self._metric_log = MetricLog(
                self._metrics, self.folder.events, [display], from_steps=trainer.collector.steps
            )
            with self._signals():
                try:
                    trainer.run(self.steps)
                except (KeyboardInterrupt, EnvironmentFault):
                    save_weights(self.folder.weights, trainer.models)
                    raise
                if self._stop is None:
                    self._save(trainer.collector.steps)
        finally:
            trainer.close()
            if self._metric_log is not None:
                self._metric_log.close()
        if self._stop is not None:
            self._leave(self._stop)
        result = self._evaluate(self.steps, episodes=self.config.evaluation.final_episodes, final=True)
        recorded = record_episodes(
            trainer.models,
            self.environment,
            self.config,
            episodes=RECORDED_EPISODES,
            seed=self.seed,
            on_fault=functools.partial(self._on_fault, "recording"),
        )
        save_episodes(self.folder, recorded)
        for log in (self._metrics, self._evaluations, self._sittings):
            log.flush()
        return result

    def _leave(self, reason: str) -> None:
        steps = self.trainer.collector.steps
        self._record("stopped", reason=reason)
        raise Interrupted(
            f"stopped by {reason} after {steps} of {self.steps} steps, and saved. "
            f"Go on with: worldstream train --resume {self.folder.path}"
        )

    def _after_step(self, steps: int) -> bool:
        """Whether to stop here. Writes a checkpoint when one is due, and before stopping."""
        if self._time_limit is not None and time.monotonic() - self._began >= self._time_limit:
            self._stop = self._stop or f"the time limit of {self._time_limit:g} s"
        if self._stop is not None:
            self._save(steps)
            return True
        if self._checkpoint_due.due(steps):
            try:
                self._save(steps)
            except RunFolderError as error:
                warn(f"no checkpoint at {steps} steps: {error} Training goes on.")
        return False

    def _save(self, steps: int) -> None:
        """Write a checkpoint and the weights, once at a step. Raises RunFolderError."""
        if steps == self._saved_steps:
            return  # its part of replay would be replaced by one without the rows that are saved already
        trainer, began = self.trainer, time.perf_counter()
        self._metrics.flush()
        self._evaluations.flush()
        trained = trainer.state_dict()
        state = {
            "trainer": trained,
            "metrics": self._metrics.size,
            "evaluations": self._evaluations.size,
            "seconds": self.seconds,
            "best": self._best,
            "checkpoint_due": self._checkpoint_due.state_dict(),
        }
        rows = trainer.store.rows_since(self._saved_numbers)
        self._checkpoints.save(steps, state, rows, trainer.store.ring.oldest_numbers)
        self._saved_steps, self._saved_numbers = steps, trained["replay"]["next_numbers"]
        save_weights(self.folder.weights, trainer.models)
        trainer.note_seconds("checkpoint", time.perf_counter() - began)

    def _on_metrics(self, record: dict[str, Any]) -> None:
        assert self._metric_log is not None
        self._metric_log.write({**record, "wall_seconds": self.seconds})

    def _on_fault(self, during: str, index: int, error: WorldstreamError) -> None:
        """An environment failed and is about to be made anew."""
        self._record("environment restarted", during=during, environment=index, problem=str(error))
        warn(f"{error} It is made anew; its episode is closed.")

    def _on_skipped(self, update: SkippedUpdate) -> None:
        try:
            kept = str(save_skipped(self.folder, update, self.trainer.models))
        except RunFolderError as error:
            kept = f"nowhere: {error}"
        self._record("update skipped", component=update.component, kept=kept)
        warn(
            f"an update of the {update.component} was skipped at {update.steps} steps, because its loss or gradient is "
            f"not finite. What led there is kept in {kept}"
        )

    def _record(self, event: str, **details: Any) -> None:
        """Note something out of the ordinary."""
        self._sittings.append({"event": event, "steps": self.trainer.collector.steps, **details})

    def _on_evaluation(self, steps: int) -> None:
        mean = self._evaluate(steps, episodes=self.config.evaluation.episodes).summary["return_mean"]
        if mean > self._best:
            self._best = mean
            save_weights(self.folder.best_weights, self.trainer.models)

    def _evaluate(self, steps: int, *, episodes: int, final: bool = False) -> Evaluation:
        """Evaluate the models as they are and append the result."""
        seconds = self.seconds
        on_fault = functools.partial(self._on_fault, "evaluation")
        result = evaluate(
            self.trainer.models, self.environment, self.config, episodes=episodes, seed=self.seed, on_fault=on_fault
        )
        record = {"steps": steps, "final": final, "training_seconds": seconds, **result.summary}
        self._evaluations.append(record)
        return result

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn the first SIGINT or SIGTERM into a request to stop; a second SIGINT interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers
            return

        def request(number: int, frame: Any) -> None:
            if self._stop is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._stop = self._stop or signal.Signals(number).name

        before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
