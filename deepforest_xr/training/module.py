"""The Lightning module: one step, one epoch, what is logged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning.pytorch as lp
import numpy as np
import torch
from torch import nn

from deepforest_xr.errors import ChipError
from deepforest_xr.models.network import Heads
from deepforest_xr.training.data import IGNORED, Batch
from deepforest_xr.training.losses import CrossEntropy

if TYPE_CHECKING:
    from deepforest_xr.models.network import Network
    from deepforest_xr.training.losses import Loss


BATCHNORM_WARMUP = 4
"""Running statistics average over about the last quarter of the steps, at most Keras' hundred."""


class TrainingModule(lp.LightningModule):
    """Trains a network with a loss weighted by class, and Adam."""

    def __init__(
        self,
        network: Network,
        weights: torch.Tensor,
        *,
        learning_rate: float,
        seed: int,
        loss: Loss | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss or CrossEntropy()
        self.learning_rate = learning_rate
        self.seed = seed
        self.register_buffer("weights", weights)
        self.hits = {"train": [0, 0], "val": [0, 0]}
        self.momenta = {
            m: m.momentum or 0.0 for m in network.modules() if isinstance(m, nn.BatchNorm2d)
        }

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
        """Let order, turns and dropout follow from the epoch, whatever was drawn before."""
        loader = self.trainer.train_dataloader
        if loader is not None:
            loader.dataset.epoch = self.current_epoch
        seeds = np.random.SeedSequence((self.seed, self.current_epoch))
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        self.hits["train"] = [0, 0]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Let BatchNorm's running statistics follow the weights from the first step on.

        With Keras' momentum of 0.99 they still hold a third of their initial values after a
        hundred steps, and a short run would be validated with statistics of no data at all.
        """
        del batch, batch_idx
        young = BATCHNORM_WARMUP / (self.global_step + BATCHNORM_WARMUP)
        for layer, momentum in self.momenta.items():
            layer.momentum = max(momentum, young)

    def on_validation_epoch_start(self) -> None:
        """Count from zero."""
        self.hits["val"] = [0, 0]

    def on_validation_epoch_end(self) -> None:
        """Log pixel accuracies; validation ends before the training epoch does."""
        for split, (right, seen) in self.hits.items():
            if seen:
                self.log(f"{split}_accuracy", right / seen, prog_bar=True)

    def _step(self, batch: Batch, split: str) -> torch.Tensor:
        target = batch.target
        output = self.network(*batch.inputs)
        loss = self.loss(output, target, self.get_buffer("weights"), batch.weight)
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
