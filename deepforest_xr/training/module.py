"""The Lightning module: one step, one epoch, what is logged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning.pytorch as lp
import torch

from deepforest_xr.errors import ChipError
from deepforest_xr.models.network import Heads
from deepforest_xr.training.data import IGNORED, Batch
from deepforest_xr.training.losses import cross_entropy

if TYPE_CHECKING:
    from deepforest_xr.models.network import Network


class TrainingModule(lp.LightningModule):
    """Trains a network with weighted cross-entropy and Adam."""

    def __init__(self, network: Network, weights: torch.Tensor, learning_rate: float) -> None:
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate
        self.register_buffer("weights", weights)
        self.hits = {"train": [0, 0], "val": [0, 0]}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, with PyTorch's default decay rates."""
        return torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Loss of a batch; a loss that is not finite stops the run."""
        loss = self._step(batch, "train")
        if not torch.isfinite(loss):
            raise ChipError(
                f"the loss became {loss.item()} in epoch {self.current_epoch}, batch {batch_idx}: "
                "lower the learning rate, or look for wrong values in the chips."
            )
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and hits of a batch."""
        del batch_idx
        self._step(batch, "val")

    def on_train_epoch_start(self) -> None:
        """Tell the chips the epoch, from which they draw their turns."""
        loader = self.trainer.train_dataloader
        if loader is not None:
            loader.dataset.epoch = self.current_epoch
        self.hits["train"] = [0, 0]

    def on_validation_epoch_start(self) -> None:
        """Count from zero."""
        self.hits["val"] = [0, 0]

    def on_validation_epoch_end(self) -> None:
        """Log pixel accuracies; validation ends before the training epoch does."""
        for split, (right, seen) in self.hits.items():
            if seen:
                self.log(f"{split}_accuracy", right / seen, prog_bar=True)

    def _step(self, batch: Batch, split: str) -> torch.Tensor:
        inputs, target = batch
        output = self.network(*inputs)
        loss = cross_entropy(output, target, self.get_buffer("weights"))
        fused = output.fused if isinstance(output, Heads) else output
        labelled = target != IGNORED
        self.hits[split][0] += int((fused.argmax(1) == target)[labelled].sum())
        self.hits[split][1] += int(labelled.sum())
        self.log(
            f"{split}_loss",
            loss,
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            batch_size=len(target),
        )
        return loss
