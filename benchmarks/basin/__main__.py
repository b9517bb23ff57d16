"""Measure the parts that are asked for, and write docs/scaling.md from all that FOLDER has.

`python -m benchmarks.basin --out FOLDER` takes the better part of an hour on two cores. FOLDER
keeps scenes, and the numbers of each part: `--parts faults` measures one again, `--parts` alone
only writes the page. S3 is moto's server: `make test-services` installs it, `--services` says
where. `--parts finish` needs 2 GB of disk and of memory.
"""

import argparse
import json
import warnings
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measure import machine

ROOT = Path(__file__).parents[2]
PARTS = ("scaling", "rates", "ledger", "faults", "finish")


def main():
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", message="The 'shapely")
    for name in given.parts:
        part = MEASURE[name](given) | {
            "machine": machine(),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
        }
        (given.out / f"{name}.json").write_text(json.dumps(part, indent=1), encoding="utf-8")
    from benchmarks.basin import page

    kept = {name: given.out / f"{name}.json" for name in PARTS}
    found = {n: json.loads(p.read_text(encoding="utf-8")) for n, p in kept.items() if p.exists()}
    given.page.write_text(page.page(found), encoding="utf-8")
    if "scaling" in found:
        page.draw(found["scaling"], given.page.parent / page.PICTURE)
    print(f"written to {given.page}")


def arguments(words=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.basin", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/basin"))
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tiles", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--finished", type=int, nargs="+", default=[1, 2, 4], help="full tiles")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--listed", type=int, default=10_000, help="tiles in the ledger")
    parser.add_argument("--services", type=Path, default=ROOT / ".venv-services")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "scaling.md")
    return parser.parse_args(words)


def scaling(given):
    from benchmarks.basin import scaling

    return scaling.measure(given.out, sizes=given.tiles, repeats=given.repeats)


def rates(given):
    from benchmarks.basin import rates, world
    from benchmarks.basin import scaling as sizes

    across = world.side_for(max(given.tiles), sizes.TILE)
    items = world.ground(given.out, across)
    return rates.measure(given.out, repeats=given.repeats, ground=items, across=across)


def ledger(given):
    from benchmarks.basin import listing

    return listing.measure(given.services, tiles=given.listed, repeats=given.repeats)


def faults(given):
    from benchmarks.basin import faults

    return {"rows": faults.measure(given.out)}


def finish(given):
    from benchmarks.basin import finish

    return finish.measure(given.out, sizes=given.finished, repeats=given.repeats)


MEASURE = {"scaling": scaling, "rates": rates, "ledger": ledger, "faults": faults, "finish": finish}

if __name__ == "__main__":
    main()
