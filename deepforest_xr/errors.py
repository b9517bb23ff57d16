"""Everything this library raises on purpose.

    DeepForestError
    ├── ConfigError (ValueError)        an argument or a setting that cannot be
    ├── DtypeError (TypeError)          an array of the wrong kind
    ├── GridError (ValueError)          grids that do not fit each other
    ├── CatalogError                    what a catalog gave, or did not give
    │   ├── NoItemsError                no scene for the question asked
    │   ├── MissingAssetError           a scene lacks a band
    │   └── UnknownOffsetError          Sentinel-2 offset that cannot be decided
    ├── ReadError (OSError)             a raster or store that cannot be read
    ├── WriteError (OSError)            a result that could not be written whole
    │   └── StoreError                  a basin's store does not do what is asked of it
    ├── LabelError (ValueError)         label codes or extents that do not fit
    ├── ChipError (ValueError)          training chips that cannot be cut or used
    ├── ModelError                      a network or checkpoint
    │   ├── NoModelError                none given, none configured
    │   ├── BandMismatchError           the cube's bands are not the model's
    │   └── ChecksumError               weights that are not those that were saved
    ├── LostLeaseError                  another runner has the tile of a basin now
    └── MissingExtraError (ImportError) an optional package is not installed

A message says what was wrong, what was expected and what to do, in one line.
"""


class DeepForestError(Exception):
    """Root of the tree: catching it catches every error raised on purpose."""


class ConfigError(DeepForestError, ValueError):
    """An argument or a setting that cannot be."""


class DtypeError(DeepForestError, TypeError):
    """An array of the wrong kind."""


class GridError(DeepForestError, ValueError):
    """Grids that do not fit each other."""


class CatalogError(DeepForestError):
    """What a catalog gave, or did not give."""


class NoItemsError(CatalogError):
    """No scene for the question asked."""


class MissingAssetError(CatalogError):
    """A scene lacks a band."""


class UnknownOffsetError(CatalogError):
    """The radiometric offset of a Sentinel-2 scene cannot be decided."""


class ReadError(DeepForestError, OSError):
    """A raster or store that cannot be read."""


class WriteError(DeepForestError, OSError):
    """A result that could not be written whole."""


class StoreError(WriteError):
    """A basin's store does not do what is asked of it, whichever tile it was for."""


class LabelError(DeepForestError, ValueError):
    """Label codes or extents that do not fit."""


class ChipError(DeepForestError, ValueError):
    """Training chips that cannot be cut or used."""


class ModelError(DeepForestError):
    """A network or checkpoint."""


class NoModelError(ModelError):
    """No model given, none configured."""


class BandMismatchError(ModelError):
    """The cube's bands are not the model's."""


class ChecksumError(ModelError):
    """Weights that are not those that were saved."""


class LostLeaseError(DeepForestError):
    """Another runner has the tile of a basin now, or this one gave it back."""


class MissingExtraError(DeepForestError, ImportError):
    """An optional package is not installed."""
