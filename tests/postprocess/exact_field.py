"""The mean field of a dense CRF with exact kernels between all pairs of pixels, as pydensecrf's
class takes it. Slow, and independent of its lattice."""

import numpy as np


class DenseCRF:
    """Potts model, Gaussian kernels, symmetric normalisation."""

    def __init__(self, pixels, classes):
        self.shape = (classes, pixels)
        self.kernels = []

    def setUnaryEnergy(self, energy):  # noqa: N802 - the library's name
        assert energy.dtype == np.float32
        assert energy.shape == self.shape
        self.unary = energy.astype("float64")

    def addPairwiseEnergy(self, features, compat):  # noqa: N802 - the library's name
        assert features.dtype == np.float32
        assert features.shape[1] == self.shape[1]
        f = features.astype("float64")
        squares = ((f[:, :, None] - f[:, None]) ** 2).sum(0)
        kernel = np.exp(-squares / 2)
        scale = 1 / np.sqrt(kernel.sum(0))
        self.kernels.append(compat * kernel * scale * scale[:, None])

    def inference(self, iterations):
        energy = self.unary
        for _ in range(iterations + 1):
            share = np.exp(-energy + energy.min(0))
            share /= share.sum(0)
            energy = self.unary - sum(share @ kernel for kernel in self.kernels)
        return share
