"""When and how a sitting saves: checkpoints of a trainer, together with how far the logs were."""

from __future__ import annotations

from typing import Any

from worldstream.config import CheckpointConfig
from worldstream.errors import RunFolderError
from worldstream.runs.checkpoint import Checkpoints
from worldstream.runs.folder import RunFolder
from worldstream.runs.log import LineLog
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
        self._folder, self._logs = folder, logs
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

    def restore(self, trainer: Trainer) -> tuple[dict[str, Any], int] | None:
        """Continue from the newest checkpoint; what was logged after it is cut off, and will be logged again.

        Returns:
            what the session saved, and the number of episodes that had to be closed as truncated; None when there is
            no checkpoint yet.

        Raises RunFolderError when no checkpoint is intact, or it does not fit the run.
        """
        checkpoint = self._checkpoints.latest()
        if checkpoint is None:
            for log in self._logs.values():
                log.cut(0)
            return None
        state = checkpoint.state
        try:
            closed = trainer.load_state_dict(state["trainer"], checkpoint.replay_parts())
        except (KeyError, ValueError, RuntimeError) as error:
            raise RunFolderError(
                f"checkpoint {checkpoint.name} of {self._folder.path} does not fit the run: {error}"
            ) from error
        for name, log in self._logs.items():
            log.cut(state["logs"][name])
        self.due.load_state_dict(state["due"])
        self._note(checkpoint.name, state)
        return state["session"], closed

    def _note(self, name: str, state: dict[str, Any]) -> None:
        self._name, self._serials = name, state["trainer"]["experience"]["replay"]["next_serials"]
