"""Run the benchmarks and write what was measured to docs/benchmarks.md."""

from datetime import UTC, datetime
from pathlib import Path

from benchmarks import chips, classify, composite, cube, networks
from benchmarks.measure import machine

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def main():
    results = []
    for module in (composite, cube, chips, classify):
        for result in module.run():
            results.append(result)
            print(f"{result.what}: {result.ratio:.2f} x {result.peer}")
    facts = [cube.graph()]
    forwards = []
    for forward in networks.run():
        forwards.append(forward)
        print(forward)
    maps = classify.section(classify.overhead(), classify.threads())
    PAGE.write_text(page(results, [*facts, "", *maps], forwards), encoding="utf-8")
    print(f"written to {PAGE}")


def page(results, facts, forwards):
    """The page, with the command that gives it."""
    lines = [
        "# Benchmarks",
        "",
        "`make bench` writes this page. A ratio is the peer's time over ours, both medians of",
        "turns in one run: above 1 we are faster. Nothing here is a timed test.",
        "",
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {machine()}.",
        "",
        "| what | ours | peer | ours, s | peer, s | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r.what} | {r.ours} | {r.peer} | {r.ours_seconds:.2f} | {r.peer_seconds:.2f} "
        f"| {r.ratio:.2f} |"
        for r in results
    ]
    lines += ["", *(f"- {note}." for note in notes(results)), "", *facts]
    lines += ["", *networks.section(forwards), ""]
    return "\n".join(lines)


def notes(results):
    """One line a comparison; peers of one comparison share its beginning."""
    return [f"{r.what}, {r.peer}: {r.note}" for r in results]


if __name__ == "__main__":
    main()
