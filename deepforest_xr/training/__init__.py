"""Chips to a checkpoint, with Lightning; needs the extra `train`."""

from deepforest_xr.training.recipes import RECIPES, recipe_of
from deepforest_xr.training.settings import TrainSettings
from deepforest_xr.training.train import train

__all__ = ["RECIPES", "TrainSettings", "recipe_of", "train"]
