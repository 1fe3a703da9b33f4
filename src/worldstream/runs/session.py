"""One sitting of a run: trains, keeps its files, and stops in order when it is told to.

A run is interrupted by SIGINT, SIGTERM or a limit of wall time: the update under way is finished, a checkpoint is
written, and ``Interrupted`` says how to go on. A second SIGINT leaves at once; what was saved stays good.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from worldstream.errors import (
    DivergedError,
    EnvironmentFault,
    Interrupted,
    OutOfMemoryError,
    RunFolderError,
    WorldstreamError,
    warn,
)
from worldstream.evaluation.episodes import RECORDED_EPISODES, record_episodes
from worldstream.evaluation.evaluate import Evaluation, Stopped, evaluate, protocol_card, warn_of_fault
from worldstream.runs.capacity import ReplaySize
from worldstream.runs.description import describe
from worldstream.runs.episodes import save_episodes
from worldstream.runs.folder import RunFolder
from worldstream.runs.log import LineLog
from worldstream.runs.metric_log import MetricLog
from worldstream.runs.progress import evaluation_progress
from worldstream.runs.saving import Saver
from worldstream.runs.skipped import save_skipped
from worldstream.runs.stopping import StopRequest
from worldstream.runs.trust import EnvironmentCode
from worldstream.runs.weights import save_weights
from worldstream.training.events import Events, SkippedUpdate
from worldstream.training.experiment import Experiment
from worldstream.training.memory import enough_memory
from worldstream.training.trainer import Trainer


class Session(Events):
    """A trainer and the files of its run; it keeps what the trainer tells.

    Args:
        folder: of the run; it is written when the session runs, after run.json.
        experiment: everything that decides the run.
        time_limit: seconds of wall time after which this sitting ends; None: no limit.
    """

    def __init__(self, folder: RunFolder, experiment: Experiment, time_limit: float | None = None) -> None:
        self.folder, self.experiment = folder, experiment
        self._request = StopRequest(time_limit)
        self._began, self._earlier_seconds = time.monotonic(), 0.0
        self._best = float("-inf")
        self._say: Callable[[str], Any] = str
        self._pending_evaluation = False  # it was left because of a request to stop
        run = folder.run_id
        self._metrics, self._evaluations = LineLog(folder.metrics, run), LineLog(folder.evaluations, run)
        self._sittings = LineLog(folder.sittings, run, held=True)  # until there is a run folder
        self._metric_log: MetricLog | None = None
        logs = {"metrics": self._metrics, "evaluations": self._evaluations}
        self._saver = Saver(folder, experiment.config.checkpoint, logs)
        self.trainer = Trainer(experiment, self)
        # What can be made once will be again: an evaluation does not give up at the first failure.
        self._evaluated = replace(experiment, environment=replace(experiment.environment, was_made=True))

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, earlier sittings included."""
        return self._earlier_seconds + time.monotonic() - self._began

    @property
    def notes(self) -> list[str]:
        """What a user should know before the run."""
        experiment, config = self.experiment, self.experiment.config
        replay = ReplaySize.of(config, self.trainer.models, experiment.steps)
        notes = [f"replay will hold {replay.rows} steps, {replay.num_bytes / 1e6:.1f} MB"]
        late = {"world model": config.world_model_learner, "actor-critic": config.actor_critic_learner}
        for part, learner in late.items():
            if learner.start_steps >= experiment.last_step:
                notes.append(
                    f"note: the {part} begins to learn at step {learner.start_steps}, after the end of this run"
                )
        return notes

    def begin(self, preset: str, code: EnvironmentCode) -> None:
        """Write run.json, and remember the code of the environment. Raises RunFolderError."""
        experiment, trainer = self.experiment, self.trainer
        description = describe(experiment, trainer.models.specs, preset=preset, origin="trained")
        self.folder.create({**description, "protocol": protocol_card(experiment, trainer.environments.protocol)})
        code.remember(self.folder)
        self.restore()  # nothing yet, but it says whether checkpoints can be written

    def restore(self, *, force: bool = False, close_episodes: bool = False) -> int:
        """Continue from the newest checkpoint, or from the beginning when there is none yet.

        Args:
            force: begin anew although the run was further, and its checkpoints are gone.
            close_episodes: also go on where environments refuse their saved states.

        Returns:
            environment steps taken.

        Raises RunFolderError when checkpoints are gone, damaged, of something else, or cannot be written.
        """
        self.trainer.environments.closes_refused = close_episodes
        found = self._saver.restore(self.trainer, force=force)
        if found is None:
            return 0
        saved, closed = found
        self._pending_evaluation = saved["pending_evaluation"]
        self._earlier_seconds, self._best = saved["seconds"], saved["best"]
        self._record("resumed", truncated=closed)
        if closed:
            problem = "episodes were under way whose environment cannot give or take its state"
            warn(f"{closed} {problem}; they count as truncated.")
        return self.trainer.clock

    def run(self, display: Callable[[dict[str, Any]], None], say: Callable[[str], Any] = str) -> Evaluation:
        """Train to the end, evaluate, and leave weights and recorded episodes.

        Args:
            display: called with each record of metrics.
            say: called with what happens besides.

        Raises:
            Interrupted: told to stop; a checkpoint was written.
            EnvironmentFault, DivergedError, OutOfMemoryError: the weights of that moment are kept.
            RunFolderError: the files of the run cannot be written.
        """
        self._say = say
        self._sittings.release()
        with self._request.listening():
            try:
                self._metric_log = MetricLog(
                    self._metrics, self.folder.events, [display], from_steps=self.trainer.clock
                )
                self._train()
            finally:
                self.trainer.close()
            if self._request.reason is not None:
                raise self._interrupted()
            say(f"evaluating {self.experiment.config.evaluation.final_episodes} episodes")
            try:
                return self._finish()
            except Stopped:
                raise self._interrupted() from None

    def _train(self) -> None:
        """Train until the end or a request to stop, and save."""
        trainer = self.trainer
        try:
            if self._pending_evaluation:
                self.evaluate(trainer.clock)
            if self._request.reason is None:
                trainer.run()
        except (EnvironmentFault, DivergedError, OutOfMemoryError):
            with contextlib.suppress(RunFolderError):  # what went wrong first is more important
                save_weights(self.folder.weights, trainer.models, self.folder.run_id)
            raise
        self._save()

    def _finish(self) -> Evaluation:
        """Evaluate and record episodes. The evaluation is noted last: then the run is finished."""
        seconds = self.seconds
        result = self._evaluate(self.experiment.config.evaluation.final_episodes)
        with self.trainer.random.unchanged():
            recorded = record_episodes(
                self.trainer.models,
                self._evaluated,
                RECORDED_EPISODES,
                on_fault=functools.partial(self._incident, "recording"),
                stop=self._request.is_due,
            )
        save_episodes(self.folder, recorded)
        self._note_evaluation(self.experiment.last_step, result, seconds, final=True)
        for log in (self._metrics, self._evaluations, self._sittings):
            log.flush()
        return result

    def _evaluate(self, episodes: int) -> Evaluation:
        """Evaluate the models as they are. Raises Stopped when told to stop meanwhile."""
        # The evaluation may be left, and made again.
        with enough_memory("evaluation", "evaluation.num_environments"), self.trainer.random.unchanged():
            return evaluate(
                self.trainer.models,
                self._evaluated,
                episodes,
                on_fault=functools.partial(self._incident, "evaluation"),
                on_progress=evaluation_progress(episodes, self._say),
                stop=self._request.is_due,
            )

    def _note_evaluation(self, steps: int, result: Evaluation, seconds: float, *, final: bool) -> None:
        taken = self.trainer.collector.steps
        record = result.record(steps=steps, environment_steps=taken, final=final, training_seconds=seconds)
        self._evaluations.append(record)

    def _interrupted(self) -> Interrupted:
        steps, last, reason = self.trainer.clock, self.experiment.last_step, self._request.reason
        self._record("stopped", reason=reason)
        is_trained = steps >= last and not self.trainer.within_step
        rest = " Only the evaluation is left, which will begin anew." if is_trained else ""
        return Interrupted(
            f"stopped by {reason} after {steps} of {last} steps, and saved.{rest} "
            f"Go on with: worldstream train --resume {self.folder.path}"
        )

    # What the trainer tells.

    def metrics(self, record: dict[str, Any]) -> None:
        """Log it, with the time that the run has taken."""
        assert self._metric_log is not None
        self._metric_log.write({**record, "wall_seconds": self.seconds})

    def evaluate(self, steps: int) -> None:
        """Evaluate, and keep the best weights. When told to stop meanwhile, leave that to the next sitting."""
        seconds = self.seconds
        self._pending_evaluation = True
        try:
            result = self._evaluate(self.experiment.config.evaluation.episodes)
        except Stopped:
            return
        self._pending_evaluation = False
        self._note_evaluation(steps, result, seconds, final=False)
        mean = result.summary["return_mean"]
        if mean > self._best:
            try:
                save_weights(self.folder.best_weights, self.trainer.models, self.folder.run_id)
            except RunFolderError as error:
                warn(f"the best weights so far are not kept: {error}")
            else:
                self._best = mean

    def incident(self, index: int, error: WorldstreamError) -> None:
        """Note that an environment of the training failed."""
        self._incident("training", index, error)

    def unsuited(self, verdict: str) -> None:
        """Note and say that a tokenizer does not suit the environment."""
        self._record("tokenizer unsuited", verdict=verdict)
        warn(verdict)

    def skipped(self, update: SkippedUpdate) -> None:
        """Keep what led there, to be looked at."""
        try:
            kept = str(save_skipped(self.folder, update, self.trainer.models))
        except RunFolderError as error:
            kept = f"nowhere: {error}"
        self._record("update skipped", component=update.component, kept=kept)
        warn(
            f"an update of the {update.component} was skipped at {update.steps} steps, because its loss or gradient is "
            f"not finite. What led there is kept in {kept}"
        )

    def after_update(self) -> bool:
        """Whether to stop here: a step may bring hundreds of updates."""
        return self._request.is_due()

    def after_step(self, steps: int) -> bool:
        """Whether to stop here. Writes a checkpoint when one is due."""
        if self._request.is_due():
            return True
        if self._saver.due.due(steps):
            try:
                self._save()
            except RunFolderError as error:
                warn(f"no checkpoint at {steps} steps: {error} Training goes on.")
        return False

    def _incident(self, during: str, index: int, error: WorldstreamError) -> None:
        self._record("environment restarted", during=during, environment=index, problem=str(error))
        warn_of_fault(index, error)

    def _record(self, event: str, **details: Any) -> None:
        """Note something out of the ordinary. Environments may fail before the trainer is complete."""
        steps = self.trainer.clock if hasattr(self, "trainer") else 0
        self._sittings.append({"event": event, "steps": steps, **details})

    def _save(self) -> None:
        """Write a checkpoint, once at a moment, and the weights. Raises RunFolderError."""
        began = time.perf_counter()
        session = {"seconds": self.seconds, "best": self._best, "pending_evaluation": self._pending_evaluation}
        self._sittings.flush()
        self._sittings.sync()
        self._saver.save(self.trainer, session)
        save_weights(self.folder.weights, self.trainer.models, self.folder.run_id)
        self.trainer.metrics.add("seconds", {"checkpoint": time.perf_counter() - began})
