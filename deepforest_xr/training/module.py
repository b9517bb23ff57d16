"""The Lightning module: one step, one epoch, what is logged.

Numbers of an epoch are sums that add up, over batches and over processes, and one division
at the end: however many processes share the chips, they log and decide alike.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import lightning.pytorch as lp
import numpy as np
import torch
from torch import distributed, nn

from deepforest_xr.errors import ChipError
from deepforest_xr.models.network import Heads
from deepforest_xr.training.average import Average
from deepforest_xr.training.data import IGNORED, Batch
from deepforest_xr.training.losses import loss_of
from deepforest_xr.training.schedule import rate_share
from deepforest_xr.training.settings import TrainSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from deepforest_xr.models.network import Network


BATCHNORM_WARMUP = 4
"""Running statistics average over about the last quarter of the steps, at most Keras' hundred."""

NAMED = 3
"""Chips that the message of a loss that is not finite names at most."""

RAW, PREFIX = "raw_weights", "network."


class TrainingModule(lp.LightningModule):
    """Trains a network with a loss weighted by class, and Adam.

    Parameters
    ----------
    network : Network
        What is trained.
    weights : Tensor, dims (class,)
        Of the classes.
    settings : TrainSettings
        Loss, learning rate and its schedule, average, seed.
    origin : callable
        Says where the chip at a position is from, see `Chips.origin`.
    """

    def __init__(
        self,
        network: Network,
        weights: torch.Tensor,
        settings: TrainSettings | None = None,
        *,
        origin: Callable[[int], str] = "chip {}".format,
    ) -> None:
        super().__init__()
        self.network = network
        self.settings = settings or TrainSettings()
        self.loss = loss_of(self.settings.loss)
        self.origin = origin
        self.register_buffer("weights", weights)
        self.average = Average(network, self.settings.ema) if self.settings.ema else None
        # Loss times weight, weight, right and labelled pixels by the confidence in their labels.
        self.sums = {"train": np.zeros(4), "val": np.zeros(4)}
        self.rate = self.settings.learning_rate
        self.momenta = {m: m.momentum or 0.0 for m in _batch_norms(network)}

    def configure_optimizers(self) -> Any:
        """Adam, with PyTorch's default decay rates; a schedule goes on with every step."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.settings.learning_rate)
        if self.settings.schedule == "constant":
            return optimizer
        share = partial(
            rate_share,
            total=int(self.trainer.estimated_stepping_batches),
            warmup=self.settings.warmup,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Loss of a batch; a loss that is not finite stops the run."""
        loss, output, weight = self._step(batch, "train")
        if not torch.isfinite(loss):
            raise self._stop("loss", loss, batch, batch_idx, output)
        self.rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log("loss", loss, prog_bar=True, logger=False, batch_size=len(batch.target))
        if self.trainer.world_size == 1:
            return loss
        # Gradients are averaged over the processes. A process's loss is a mean over its own
        # pixels: by its share of the weight, the average becomes the mean over all pixels.
        total = weight.clone()
        distributed.all_reduce(total)
        return loss * (self.trainer.world_size * weight / total.clamp(min=1e-12)).to(loss)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and hits of a batch; a loss that is not finite stops the run."""
        loss, output, _ = self._step(batch, "val")
        if not torch.isfinite(loss):
            raise self._stop("validation loss", loss, batch, batch_idx, output)

    def on_train_epoch_start(self) -> None:
        """Let order, turns and dropout follow from the epoch, whatever was drawn before."""
        loader = self.trainer.train_dataloader
        if loader is not None:
            loader.dataset.epoch = self.current_epoch
        # Processes drop other units: each has other chips.
        rank = (self.global_rank,) if self.global_rank else ()
        seeds = np.random.SeedSequence((self.settings.seed, self.current_epoch, *rank))
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        self.sums["train"] = np.zeros(4)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Let BatchNorm's running statistics follow the weights from the first step on.

        With Keras' momentum of 0.99 they still hold a third of their initial values after a
        hundred steps, and a short run would be validated with statistics of no data at all.
        """
        del batch, batch_idx
        if not self.settings.batchnorm_warmup:
            return
        young = BATCHNORM_WARMUP / (self.global_step + BATCHNORM_WARMUP)
        for layer, momentum in self.momenta.items():
            layer.momentum = max(momentum, young)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Take the step into the average."""
        del outputs, batch, batch_idx
        if self.average is not None:
            self.average.update(self.global_step)

    def on_validation_start(self) -> None:
        """Validate what all processes have learnt, and its average where there is one."""
        self._average_statistics()
        if self.average is not None:
            self.average.swap()

    def on_validation_end(self) -> None:
        """Go on with the raw weights."""
        if self.average is not None:
            self.average.swap()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the average; where training is to go on, the raw weights beside it."""
        if self.average is None:
            return
        state, other = checkpoint["state_dict"], self.average.values
        own = {name: state[PREFIX + name] for name in other}
        raw, mean = (other, own) if self.average.is_in_use else (own, other)
        checkpoint["state_dict"] = state | {PREFIX + name: value for name, value in mean.items()}
        if "optimizer_states" in checkpoint:
            checkpoint[RAW] = dict(raw)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Train the raw weights on, and average on from the average."""
        if self.average is None:
            return
        state, raw = checkpoint["state_dict"], checkpoint[RAW]
        self.average.load({name: state[PREFIX + name] for name in raw})
        checkpoint["state_dict"] = state | {PREFIX + name: value for name, value in raw.items()}

    def on_validation_epoch_start(self) -> None:
        """Count from zero."""
        self.sums["val"] = np.zeros(4)

    def on_validation_epoch_end(self) -> None:
        """Log losses and pixel accuracies; validation ends before the training epoch does."""
        for split, sums in self.sums.items():
            loss, weight, right, seen = self._over_processes(sums)
            self.log(f"{split}_loss", loss / max(weight, 1e-12), prog_bar=True)
            if seen:
                self.log(f"{split}_accuracy", right / seen, prog_bar=True)
        self.log("learning_rate", self.rate)

    def _step(
        self, batch: Batch, split: str
    ) -> tuple[torch.Tensor, torch.Tensor | Heads, torch.Tensor]:
        """Loss, logits and weight of a batch, its numbers added to the epoch's."""
        target = batch.target
        output = self.network(*batch.inputs)
        loss = self.loss(output, target, self.get_buffer("weights"), batch.weight)
        fused = output.fused if isinstance(output, Heads) else output
        labelled = target != IGNORED
        weight = self.get_buffer("weights").double()[target[labelled]]
        sure = torch.ones_like(weight) if batch.weight is None else batch.weight[labelled].double()
        total = (weight * sure).sum()
        right = ((fused.argmax(1) == target)[labelled] * sure).sum()
        # One transfer from the device for all of them.
        numbers = torch.stack([loss.detach().double() * total, total, right, sure.sum()])
        self.sums[split] += numbers.cpu().numpy()
        return loss, output, total

    def _stop(
        self, what: str, loss: torch.Tensor, batch: Batch, number: int, output: torch.Tensor | Heads
    ) -> ChipError:
        return ChipError(
            f"the {what} became {loss.item()} in epoch {self.current_epoch}, batch {number}, "
            f"with {self._suspects(batch, output)}: lower the learning rate, or look for "
            "wrong values in these chips."
        )

    def _suspects(self, batch: Batch, output: torch.Tensor | Heads) -> str:
        """Name the chips that a loss may be not finite of.

        BatchNorm spreads one wrong value over its batch: values that are not finite come first.
        """
        wrong = [
            n
            for n in range(len(batch.target))
            if not all(bool(torch.isfinite(x[n]).all()) for x in batch.inputs)
        ]
        if not wrong:
            wrong = [n for n in range(len(batch.target)) if self._is_wrong(batch, output, n)]
        if not wrong:
            wrong = list(range(len(batch.target)))
        named = "; ".join(self.origin(int(batch.chip[n])) for n in wrong[:NAMED])
        more = len(wrong) - NAMED
        return f"{named}; and {more} more" if more > 0 else named

    def _is_wrong(self, batch: Batch, output: torch.Tensor | Heads, chip: int) -> bool:
        one = slice(chip, chip + 1)
        own = Heads(*(h[one] for h in output)) if isinstance(output, Heads) else output[one]
        loss = self.loss(own, batch.target[one], self.get_buffer("weights"))
        return not bool(torch.isfinite(loss))

    def _over_processes(self, sums: np.ndarray[Any, Any]) -> list[float]:
        total = torch.from_numpy(sums.copy()).to(self.device)
        if self.trainer.world_size > 1:
            distributed.all_reduce(total)
        return [float(number) for number in total]

    @torch.no_grad()
    def _average_statistics(self) -> None:
        """Give every process the mean of all processes' BatchNorm statistics."""
        if self.trainer.world_size == 1:
            return
        for layer in _batch_norms(self.network):
            self._average_tensors((layer.running_mean, layer.running_var))
        if self.average is not None:
            names = [n for n, _ in self.network.named_buffers()]
            self._average_tensors(self.average.values[n] for n in names)

    def _average_tensors(self, tensors: Iterable[torch.Tensor | None]) -> None:
        for tensor in tensors:
            if tensor is not None and tensor.is_floating_point():
                distributed.all_reduce(tensor)
                tensor /= self.trainer.world_size


def _batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
