"""What tests of training share: a narrow network, an interruption."""

import pytest
import torch

from deepforest_xr.training.module import TrainingModule


@pytest.fixture(scope="module")
def narrow():
    """The U-Net with few filters: the same steps, quicker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepforest_xr.models.unet.ENCODER_FILTERS", (4,) * 6)
        patch.setattr("deepforest_xr.models.unet.DECODER_FILTERS", (4,) * 5)
        yield
    torch.set_num_threads(threads)


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
