"""When and how a sitting saves: checkpoints of a trainer, together with how far the logs were."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any

from worldstream.config import CheckpointConfig
from worldstream.errors import EnvironmentFault, RunFolderError, WorldstreamError, warn
from worldstream.runs.archive import join, split
from worldstream.runs.checkpoint import Checkpoint, Checkpoints
from worldstream.runs.expected import require_like
from worldstream.runs.folder import RunFolder
from worldstream.runs.log import LineLog, read_lines
from worldstream.training.cadence import Every
from worldstream.training.trainer import Trainer


class Saver:
    """Writes the checkpoints of a run, and continues from the newest.

    Args:
        folder: of the run.
        config: how often, and how many are kept.
        logs: by name; a run that goes on from a checkpoint forgets what was logged after it.
    """

    def __init__(self, folder: RunFolder, config: CheckpointConfig, logs: dict[str, LineLog]) -> None:
        self._folder, self._config, self._logs = folder, config, logs
        self._checkpoints = Checkpoints(folder, config.keep)
        self.due = Every(config.every_steps)
        self._name = ""  # of the newest checkpoint, and what replay counted then
        self._serials: Any = None

    def save(self, trainer: Trainer, session: dict[str, Any]) -> None:
        """Write a checkpoint, once at a moment. Raises RunFolderError; all older ones are then intact.

        Args:
            trainer: after a step or an update.
            session: plain values that ``restore`` gives back.
        """
        name = f"{trainer.clock:012d}"
        if trainer.within_step:  # sorted before the one at the end of the step
            name += f"-{trainer.num_updates:09d}"
        if name == self._name:  # it would replace its part of replay by one without the rows that are saved already
            return
        for log in self._logs.values():
            log.flush()
            log.sync()
        store = trainer.experience.store
        state = {
            "trainer": trainer.state_dict(),
            "logs": {name: log.size for name, log in self._logs.items()},
            "due": self.due.state_dict(),
            "session": session,
        }
        self._checkpoints.save(name, state, store.rows_since(self._serials), store.ring.oldest_serials)
        self._note(name, state)

    def restore(self, trainer: Trainer, *, force: bool = False) -> tuple[dict[str, Any], int] | None:
        """Continue from the newest checkpoint; what was logged after it is cut off, and will be logged again.

        Returns:
            what the session saved, and the number of episodes that had to be closed as truncated; None when there is
            no checkpoint yet.

        Raises RunFolderError when no checkpoint is intact, it does not fit the run, none can be written, or, without
        ``force``, there is none any more.
        """
        problems: list[Exception] = []
        expected: Any = None
        for checkpoint in self._intact(problems):
            self._checkpoints.require_writable()
            expected = expected or join(*split(trainer.state_dict()))  # before anything is loaded
            try:
                closed = self._load(trainer, checkpoint, expected)
            except EnvironmentFault:
                raise
            except Exception as error:  # a state whose checksum is right may hold anything
                reason = " ".join(str(error).split()).rstrip(".")
                what = f"checkpoint {checkpoint.name} of {self._folder.path} does not fit the run: {reason}."
                problems.append(error if isinstance(error, WorldstreamError) else RunFolderError(what))
                warn(f"{what} Falling back to the checkpoint before.")
                continue
            for name, log in self._logs.items():
                log.cut(checkpoint.state["logs"][name])
            self._note(checkpoint.name, checkpoint.state)
            return checkpoint.state["session"], closed
        if problems:
            raise problems[0]
        self._require_beginning(trainer, force=force)
        self._checkpoints.require_writable()
        for log in self._logs.values():
            log.cut(0)
        return None

    def _intact(self, problems: list[Exception]) -> Iterator[Checkpoint]:
        """Checkpoints, newest first. Where none is left, an earlier problem is more important than that."""
        try:
            yield from self._checkpoints.intact()
        except RunFolderError:
            if not problems:
                raise

    def _load(self, trainer: Trainer, checkpoint: Checkpoint, expected: dict[str, Any]) -> int:
        """Load a checkpoint, of the form of ``expected``, into the trainer.

        Returns the number of episodes that had to be closed as truncated. Whatever it raises, another one can be loaded
        afterwards.
        """
        state, clock = checkpoint.state, int(checkpoint.name.partition("-")[0])
        logs = dict.fromkeys(self._logs, 0)
        session = {"seconds": 0.0, "best": -inf, "pending_evaluation": False}
        require_like(state, {"trainer": expected, "logs": logs, "due": 0, "session": session})
        if state["trainer"]["clock"] != clock or state["trainer"]["within_step"] != ("-" in checkpoint.name):
            raise ValueError(f"it holds the state after {state['trainer']['clock']} steps")
        closed = trainer.load_state_dict(state["trainer"], checkpoint.replay_parts())
        self.due.load_state_dict(state["due"])
        return closed

    def _require_beginning(self, trainer: Trainer, *, force: bool) -> None:
        """Raises RunFolderError when a run without checkpoints must have had some: weights are written beside them."""
        folder = self._folder
        shown = {log.path: read_lines(log.path, folder.run_id) for log in self._logs.values()}
        reached = max((int(record["steps"]) for records in shown.values() for record in records), default=0)
        first = self._config.every_steps + trainer.config.collection.num_environments  # after this one there was one
        if not folder.weights.exists() and (self._config.every_steps == 0 or reached < first):
            return
        there = [*(path for path, records in shown.items() if records), folder.weights, folder.best_weights]
        lost = ", ".join(path.name for path in there if path.exists())
        problem = f"{folder.checkpoints} holds no checkpoint, but the run was further: its files show {reached} steps."
        if not force:
            raise RunFolderError(
                f"{problem} Is a disk not mounted, or a folder moved? Bring the checkpoints back; or give --force to "
                f"begin anew, which destroys what there is in {lost}."
            )
        warn(f"{problem} It begins anew, which destroys what there was in {lost}.")

    def _note(self, name: str, state: dict[str, Any]) -> None:
        self._name, self._serials = name, state["trainer"]["experience"]["replay"]["next_serials"]
