"""The project's own manifests map a basin of four tiles, and what happens to them on the way.

The test bed runs the Dask operator as it is released, and pods as processes; its README says what
that proves.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import PROGRAM
from .runs import PLAN, SHARDS, TILES, begun, claims, pixels, planned, results, running

pytestmark = pytest.mark.k8s


def test_jobs_map_a_basin_as_one_machine_does_and_once(bed, prepare, local):
    folder = planned(bed, prepare, "plain", SHARDS)
    bed.step(folder, SHARDS, "run")
    assert bed.ends("plain-shards", "Complete") == "CompletionsReached"
    assert pixels(bed.claim / "plain") == local
    assert list(claims(bed.claim / "plain").values()) == [1] * TILES
    assert bed.are_on(bed.pods("job-name=plain-shards"), "gpu-spot")
    assert bed.are_on(bed.pods("job-name=plain-plan"), "cpu")

    # Once more: nothing is left to do.
    bed.kubectl("delete", "job", "plain-shards")
    bed.step(folder, SHARDS, "run")
    assert bed.ends("plain-shards", "Complete") == "CompletionsReached"
    assert list(claims(bed.claim / "plain").values()) == [1] * TILES
    assert pixels(bed.claim / "plain") == local


def test_the_finish_job_makes_what_this_machine_makes_of_the_same_run(bed, prepare):
    folder, out = planned(bed, prepare, "whole", SHARDS), bed.claim / "whole"
    # Too early: it names what is missing, once, and fails.
    bed.step(folder, SHARDS, "finish")
    assert bed.ends("whole-finish", "Failed") == "PodFailurePolicy"
    (pod,) = bed.pods("job-name=whole-finish")
    assert f"{TILES} of {TILES} tiles" in bed.kubectl("logs", pod["metadata"]["name"])
    bed.kubectl("delete", "job", "whole-finish")

    bed.step(folder, SHARDS, "run")
    assert bed.ends("whole-shards", "Complete") == "CompletionsReached"
    copy = bed.folder / "whole"
    shutil.copytree(out, copy)
    bed.step(folder, SHARDS, "finish")
    assert bed.ends("whole-finish", "Complete") == "CompletionsReached"
    assert bed.are_on(bed.pods("job-name=whole-finish"), "cpu")

    subprocess.run([PROGRAM, "basin", "finish", copy], check=True, capture_output=True)
    assert results(out) == results(copy)
    made = {Path(name).parts[1] for name in results(out)}
    assert made >= {"cog", "stac", "mosaic.vrt", "areas.csv", "overview.png", "finished.json"}
    assert pixels(out) == pixels(copy)


def test_a_shard_that_loses_its_node_leaves_and_is_done_elsewhere(bed, prepare, preempt, local):
    folder = planned(bed, prepare, "spot", SHARDS, shards=1, parallelism=1, retries=1)
    bed.step(folder, SHARDS, "run")
    lost = []

    def at_work():
        """The pod that has its own claim of a tile."""
        names = {p["metadata"]["name"] for p in running(bed, "job-name=spot-shards")}
        has_claim = sum(claims(bed.claim / "spot").values()) > len(lost)
        return has_claim and sorted(names - set(lost))

    # More often than a shard may fail: none of it counts.
    for _ in range(2):
        (name,) = bed.until("a new shard is at work", at_work)
        preempt(name)
        lost.append(name)
    assert bed.ends("spot-shards", "Complete") == "CompletionsReached"
    assert pixels(bed.claim / "spot") == local
    status = bed.get("job/spot-shards")["status"]
    assert (status["succeeded"], status.get("failed", 0)) == (1, 0)
    codes = [
        p["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
        for p in bed.pods("job-name=spot-shards")
        if p["metadata"]["name"] in lost
    ]
    assert codes == [75, 75]


def test_a_job_that_is_suspended_goes_on_where_it_stopped(bed, prepare, local):
    folder = planned(bed, prepare, "pause", SHARDS)
    bed.step(folder, SHARDS, "run")
    begun(bed, "pause")
    patch = ("patch", "job", "pause-shards", "--type=merge", "-p")
    bed.kubectl(*patch, '{"spec": {"suspend": true}}')
    bed.until("its pods are gone", lambda: not running(bed, "job-name=pause-shards"))
    bed.kubectl(*patch, '{"spec": {"suspend": false}}')
    assert bed.ends("pause-shards", "Complete") == "CompletionsReached"
    assert pixels(bed.claim / "pause") == local


def test_a_poisoned_tile_costs_its_own_shard_alone(bed, prepare, local):
    folder = planned(bed, prepare, "poison", SHARDS, shards=4)
    victim, *_ = sorted((bed.claim / "poison" / "items").iterdir())
    victim.unlink()
    bed.step(folder, SHARDS, "run")
    assert bed.ends("poison-shards", "Failed") == "FailedIndexes"
    status = bed.get("job/poison-shards")["status"]
    assert len(status["failedIndexes"].split(",")) == 1
    assert status["succeeded"] == TILES - 1
    # FailIndex: not one of the retries was used.
    assert status["failed"] == 1
    done = {path.stem for path in (bed.claim / "poison" / "done").iterdir()}
    assert len(done) == TILES - 1
    assert victim.stem not in done


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("nomodel", {"model": "/data/models/gone"}, "/data/models/gone is not a checkpoint"),
        ("other", {"model_sha256": "0f" * 32}, "expected 0f0f"),
    ],
)
def test_a_model_that_is_missing_or_another_ends_the_plan_at_once(
    bed, prepare, name, changes, words
):
    folder = prepare(name, **changes)
    bed.step(folder, SHARDS, "plan")
    assert bed.ends(f"{name}-plan", "Failed") == "PodFailurePolicy"
    (pod,) = bed.pods(f"job-name={name}-plan")
    assert words in bed.kubectl("logs", pod["metadata"]["name"], "-c", "model")


def test_a_plan_that_cannot_be_ends_its_job_at_once_and_says_why(bed, prepare):
    text = PLAN.format(data=bed.data, model="/model/checkpoint", out=f"{bed.data}/badplan")
    folder = prepare("badplan", plan=text.replace("datetime =", "datetmie ="))
    bed.step(folder, SHARDS, "plan")
    assert bed.ends("badplan-plan", "Failed") == "PodFailurePolicy"
    (pod,) = bed.pods("job-name=badplan-plan")
    (status,) = pod["status"]["containerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 1
    assert "unknown key 'datetmie'; did you mean 'datetime'" in bed.kubectl(
        "logs", pod["metadata"]["name"]
    )
    assert not (bed.claim / "badplan").exists()


def test_a_secret_that_is_missing_is_named_and_not_waited_for_for_ever(bed, prepare):
    folder = prepare("nosecret", secret="gone", step_deadline_s=5)
    bed.step(folder, SHARDS, "plan")
    waiting = []

    def refused():
        for pod in bed.pods("job-name=nosecret-plan"):
            for status in pod["status"].get("initContainerStatuses", []):
                waiting.append(status["state"].get("waiting", {}))
        return [w for w in waiting if w.get("reason") == "CreateContainerConfigError"]

    assert 'secret "gone" not found' in bed.until("it is refused", refused)[0]["message"]
    assert bed.ends("nosecret-plan", "Failed") == "DeadlineExceeded"
