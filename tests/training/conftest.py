"""What tests of training share: an interruption."""

import pytest

from deepforest_xr.training.module import TrainingModule


@pytest.fixture
def interrupt(monkeypatch):
    """Raise something in a step of an epoch, once."""

    def at(epoch, error=KeyboardInterrupt, *, batch=1):
        original, left = TrainingModule.training_step, [error]

        def step(self, chips, batch_idx):
            if left and self.current_epoch == epoch and batch_idx == batch:
                raise left.pop()
            return original(self, chips, batch_idx)

        monkeypatch.setattr(TrainingModule, "training_step", step)

    return at
