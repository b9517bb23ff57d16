"""What the manifests are made from: names, sizes, places, as plain values checked when made."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepforest_xr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

PLAN_FILE = "plan.toml"
PLAN_FOLDER = "/etc/deepforest-xr"
MODEL_FOLDER = "/model/checkpoint"
DATA_FOLDER = "/data"
# kubectl keeps what it applied as JSON in an annotation, and those have 256 KiB in all. (A
# ConfigMap itself may have four times that.)
CONFIG_MAP_BYTES = 250_000
# The longest name that is made from `Settings.name` adds 18 characters ("-scheduler", a shard,
# a pod's suffix), and a label or a host name has at most 63.
NAME_LENGTH = 40

_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_QUANTITIES = (
    "claim_size",
    "worker_cpu",
    "worker_memory",
    "coordinator_cpu",
    "coordinator_memory",
    "scratch",
    "shared_memory",
)
_COUNTS = (
    "shards",
    "parallelism",
    "dask_jobs",
    "dask_workers",
    "notebook_workers",
    "worker_threads",
    "gpus",
    "retries",
    "lease_s",
    "run_deadline_s",
    "step_deadline_s",
    "keep_s",
    "grace_s",
    "idle_timeout_s",
)
AREA_FILE = "aoi.geojson"
# A place to start from: one degree in the south of Pará.
DEFAULT_AREA = """\
{"type": "Polygon",
 "coordinates": [[[-56, -9], [-55, -9], [-55, -8], [-56, -8], [-56, -9]]]}
"""
DEFAULT_PLAN = f"""\
aoi = "{AREA_FILE}"
source = "planetary-computer"
model = "{MODEL_FOLDER}"
out = "{DATA_FOLDER}/amazon-2023"
year = 2023
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the manifests of one run are made from."""

    name: str = "amazon"
    """Name of the run: Jobs and clusters are called after it. Lower case, at most 40 characters."""

    namespace: str = "deepforest-xr"
    """Namespace of everything but the operator."""

    image: str = "registry.example.org/deepforest-xr:0.1.0"
    """One image for scheduler, worker, runner and command line, built from ``k8s/Dockerfile``."""

    out: str = f"{DATA_FOLDER}/amazon-2023"
    """Where the run writes: a folder below ``/data``, or an address that the library opens."""

    plan: str = DEFAULT_PLAN
    """Text of ``plan.toml``: its ``out`` is that of above, its ``model`` is
    ``/model/checkpoint``."""

    plan_files: Mapping[str, str] = field(default_factory=lambda: {AREA_FILE: DEFAULT_AREA})
    """Text files beside the plan that it names, such as the area: name to text."""

    model: str = f"{DATA_FOLDER}/models/deepforest-1b"
    """Checkpoint: a folder on the claim, or an address (``https://``, ``s3://``, ``gs://``,
    ``az://``, read with the secret's credentials); pods get it as ``/model/checkpoint``."""

    model_sha256: str | None = None
    """Checksum of its weights, as `deepforest-xr model show` prints it; another model is refused.
    None takes what is there."""

    secret: str | None = "deepforest-xr"  # noqa: S105 - the name of a secret, not a secret
    """Secret whose keys become environment variables (store and catalog credentials); None for
    workload identity or public data."""

    service_account_annotations: Mapping[str, str] = field(default_factory=dict)
    """For workload identity, for example ``{"eks.amazonaws.com/role-arn": "arn:..."}``."""

    claim: str | None = "deepforest-xr"
    """Claim mounted at ``/data`` in every pod; None where model and output are addresses."""

    claim_size: str = "2Ti"
    """Size of the claim."""

    storage_class: str | None = None
    """Storage class of the claim, one that several nodes can write; None takes the default."""

    shards: int = 64
    """Completions of the Indexed Job: the tiles are dealt out to so many pods."""

    parallelism: int = 8
    """Shards that run at once."""

    dask_jobs: int = 1
    """DaskJobs that share the tiles; each has a scheduler and workers of its own."""

    dask_workers: int = 8
    """Workers of each DaskJob."""

    notebook_workers: int = 2
    """Workers of the interactive cluster when it starts."""

    worker_threads: int = 1
    """Threads of a Dask worker, and tiles of a shard at a time: with 2 one is read while another
    is written, in twice the memory, the GPU's too."""

    worker_cpu: str = "4"
    """Cores that a worker or shard asks for."""

    worker_memory: str = "16Gi"
    """Memory that it gets, and no more."""

    coordinator_cpu: str = "1"
    """Cores of scheduler, runner, plan and finish."""

    coordinator_memory: str = "4Gi"
    """Memory of each of them."""

    scratch: str = "20Gi"
    """Most that a pod may write to ``/tmp``."""

    shared_memory: str = "2Gi"
    """Size of ``/dev/shm``, where loaders pass arrays on; a runtime gives only 64 MiB."""

    gpus: int = 1
    """GPUs of a worker where an overlay asks for them."""

    gpu_resource: str = "nvidia.com/gpu"
    """Name of the resource, also the key of the taint on GPU nodes."""

    gpu_selector: Mapping[str, str] = field(
        default_factory=lambda: {"nvidia.com/gpu.present": "true"}
    )
    """Labels of GPU nodes; this one is set by NVIDIA's GPU operator."""

    spot_key: str = "karpenter.sh/capacity-type"
    """Label of spot nodes, also the key of their taint if they have one. Workers of the spot
    overlay go there, all else stays away."""

    spot_value: str = "spot"
    """Value of that label and taint."""

    queue: str = "deepforest-xr"
    """LocalQueue of the overlay for Kueue."""

    operator_namespace: str = "dask-operator"
    """Where the Dask operator runs: it must reach the schedulers."""

    retries: int = 3
    """Times that a shard may be interrupted or killed other than by a loss of its node."""

    lease_s: int = 600
    """A tile whose pod was killed is taken over after so many seconds."""

    run_deadline_s: int = 14 * 24 * 3600
    """A run ends after so many seconds, whatever happens."""

    step_deadline_s: int = 12 * 3600
    """So do plan and finish: this also bounds the wait for a secret or claim that is missing."""

    keep_s: int = 7 * 24 * 3600
    """Finished Jobs are removed after so many seconds; the ledger stays."""

    grace_s: int = 25
    """From SIGTERM to SIGKILL; spot nodes of Google and Azure are gone after 30 s."""

    idle_timeout_s: int = 3600
    """An interactive cluster without work is removed after so many seconds."""

    def __post_init__(self) -> None:
        for key in ("name", "namespace", "operator_namespace", "queue"):
            _check_name(key, getattr(self, key))
        for key in ("secret", "claim"):
            if getattr(self, key) is not None:
                _check_name(key, getattr(self, key))
        for key in _QUANTITIES:
            _check_quantity(key, getattr(self, key))
        for key in _COUNTS:
            _check_count(key, getattr(self, key))
        self._check_together()

    def _check_together(self) -> None:
        if self.model_sha256 is not None and not _SHA256.fullmatch(self.model_sha256):
            raise ConfigError(
                f"model_sha256={self.model_sha256!r} is not a SHA-256: expected 64 hexadecimal "
                "digits, as `deepforest-xr model show PATH` prints them."
            )
        if self.parallelism > self.shards:
            raise ConfigError(
                f"parallelism={self.parallelism} is more than shards={self.shards}: a shard is "
                "one pod. Raise shards, or lower parallelism."
            )
        for key in ("out", "model"):
            if self.claim is None and str(getattr(self, key)).startswith("/"):
                raise ConfigError(
                    f"{key}={getattr(self, key)!r} is a folder, but there is no claim that keeps "
                    "it: name a claim, or give an address (s3://..., https://...)."
                )
        _check_plan(self)
        size = len(json.dumps([self.plan, *self.plan_files.values()], ensure_ascii=False).encode())
        if size >= CONFIG_MAP_BYTES:
            raise ConfigError(
                f"plan and area have {size:,} bytes, kubectl applies a ConfigMap of less than "
                f"{CONFIG_MAP_BYTES:,}: simplify the area, or put it on the claim and give "
                f'its path in the plan, as aoi = "{DATA_FOLDER}/{AREA_FILE}".'
            )


def _check_plan(settings: Settings) -> None:
    for name in settings.plan_files:
        if not _KEY.fullmatch(name) or name.startswith("..") or name in {".", PLAN_FILE}:
            raise ConfigError(
                f"plan_files has {name!r}, which cannot be the name of a file in a ConfigMap: "
                f"letters without accents, digits, '-', '_' and '.', and not {PLAN_FILE}. "
                "Rename it."
            )
    try:
        plan = tomllib.loads(settings.plan)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"plan is not TOML: {error}.") from error
    for key, expected in (("out", settings.out), ("model", MODEL_FOLDER)):
        if plan.get(key) != expected:
            raise ConfigError(
                f"the plan has {key}={plan.get(key)!r}, but pods have it at {expected!r}: write "
                f'{key} = "{expected}" in the plan.'
            )
    area = str(plan.get("aoi", "")).partition("|")[0]  # of a layer's name
    if not area.startswith("/") and area not in settings.plan_files:
        raise ConfigError(
            f"the plan has aoi={area!r}, which is not beside it: name the file in plan_files, or "
            f"give a path below {DATA_FOLDER}."
        )


def read_settings(path: str | Path) -> Settings:
    """Read settings from a TOML file whose keys are those of `Settings`.

    Parameters
    ----------
    path : path
        The file. Its ``plan`` and ``plan_files`` name files, relative to it.

    Returns
    -------
    Settings
        Checked; what the file does not name has its default.

    Raises
    ------
    ConfigError
        If the file cannot be read, has a key that is not known, or a value that cannot be.
    """
    folder = Path(path).parent
    values = _toml(Path(path))
    known = [f.name for f in fields(Settings)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(
            f"{path}: {', '.join(unknown)} is not a setting; there are {', '.join(known)}."
        )
    if "plan" in values:
        values["plan"] = _text(folder / str(values["plan"]))
    if "plan_files" in values:
        names = values["plan_files"]
        if not isinstance(names, list):
            raise ConfigError(f"{path}: plan_files is a list of file names, got {names!r}.")
        if len({Path(name).name for name in names}) < len(names):
            raise ConfigError(
                f"{path}: plan_files has files of one name, which pods keep in one folder: rename "
                "them."
            )
        values["plan_files"] = {Path(name).name: _text(folder / name) for name in names}
    return Settings(**values)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        hint = (
            f"; an area may be on the claim, with its path in the plan: {DATA_FOLDER}/{path.name}"
        )
        raise ConfigError(
            f"{path} cannot be read: {why}{'' if isinstance(error, OSError) else hint}."
        ) from error


def _check_name(key: str, value: object) -> None:
    if not isinstance(value, str) or not _NAME.fullmatch(value) or len(value) > NAME_LENGTH:
        raise ConfigError(
            f"{key}={value!r} is not a name in Kubernetes: lower-case letters, digits and -, "
            f"a letter first, at most {NAME_LENGTH} characters."
        )


def _check_quantity(key: str, value: object) -> None:
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise ConfigError(
            f'{key}={value!r} is not a quantity: write a string such as "4", "500m" or "16Gi" '
            "(the Dask operator refuses bare numbers)."
        )


def _check_count(key: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{key}={value!r} is not a positive whole number.")
