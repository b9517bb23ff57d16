"""What the STAC server holds: simulated scenes, hundreds of copies, recorded items."""

import json
from datetime import UTC, datetime, timedelta

COPIES = 640
BEGIN = datetime(2019, 1, 1, 12, tzinfo=UTC)
# Documents of another kind, and an item as it was before it was published.
SKIPPED = (".collection", ".pre-publish.")


def copies(item):
    """Scenes that differ in id, time and clouds: one every twelve hours from 2019 on."""
    for number in range(COPIES):
        when = BEGIN + timedelta(hours=12 * number)
        # 37 and 101 have no common factor: every whole percent occurs, in no order.
        own = {
            "datetime": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "eo:cloud_cover": float(number * 37 % 101),
        }
        yield {
            **item,
            "id": f"{item['id']}-{number:03d}",
            "properties": {**item["properties"], **own},
            "assets": {band: item["assets"][band] for band in ("B02", "SCL")},
        }


def recorded(folder):
    """Items as two public catalogs gave them, each once."""
    found = {}
    for file in sorted(folder.rglob("*.json")):
        if any(word in file.name for word in SKIPPED):
            continue
        content = json.loads(file.read_text())
        if isinstance(content, dict):
            content = content.get("features", [content])
        for item in content:
            # pgstac takes neither STAC 0 nor an item without a collection.
            if item.get("stac_version", "0").startswith("1.") and item.get("collection"):
                found.setdefault((item["collection"], item["id"]), item)
    return list(found.values())


def collection(name):
    """The least that a collection says."""
    extent = {
        "spatial": {"bbox": [[-180, -90, 180, 90]]},
        "temporal": {"interval": [["2014-01-01T00:00:00Z", None]]},
    }
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": name,
        "description": f"Items of {name}.",
        "license": "proprietary",
        "extent": extent,
        "links": [],
    }


def write_lines(documents, path):
    path.write_text("".join(json.dumps(d) + "\n" for d in documents))
    return path
