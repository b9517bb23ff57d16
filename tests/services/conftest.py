"""Real servers on loopback: PostgreSQL with pgstac and stac-fastapi, and an S3 store."""

import json
import os
import urllib.request
import uuid
from types import SimpleNamespace

import pytest

from deepforest_xr.catalogs import api, read_items

from . import holdings, proxy, servers


@pytest.fixture(scope="session")
def services():
    """Folder of the servers' programs."""
    if reason := servers.missing():
        # Whoever names their folder means to run them.
        (pytest.fail if "DEEPFOREST_XR_SERVICES" in os.environ else pytest.skip)(reason)
    return servers.SERVICES / "bin"


@pytest.fixture(scope="session")
def logs(tmp_path_factory):
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="session")
def recorded(request):
    """Recorded items where the real data is; none where it is not."""
    try:
        folder = request.getfixturevalue("shared_data")
    except pytest.skip.Exception:
        return []
    return holdings.recorded(folder / "stac")


@pytest.fixture(scope="session")
def held(scene, recorded, tmp_path_factory):
    """Everything that the server holds, as a file and as it is loaded."""
    folder = tmp_path_factory.mktemp("held")
    # With absolute links: a server has no folder of its own.
    simulated = [i.to_dict(transform_hrefs=False) for i in read_items(scene.items)]
    model = next(i for i in simulated if i["collection"] == "sentinel-2-l2a")
    items = [*simulated, *holdings.copies(model), *recorded]
    path = folder / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return SimpleNamespace(items=items, path=path, folder=folder)


@pytest.fixture(scope="session")
def stac(services, held, logs):
    """A stac-fastapi server on pgstac; `url`, `port`, and `path` of the same items in a file."""
    names = sorted({item["collection"] for item in held.items})
    lines = {
        "collections": [holdings.collection(name) for name in names],
        "items": held.items,
    }
    with servers.postgres(logs) as database:
        address = {"PGHOST": "127.0.0.1", "PGPORT": str(database), "PGUSER": "postgres"}
        address |= {"PGDATABASE": "postgres", "PGPASSWORD": "none"}
        servers.run([services / "pypgstac", "migrate"], env=address)
        for table, documents in lines.items():
            file = holdings.write_lines(documents, held.folder / f"{table}.ndjson")
            servers.run([services / "pypgstac", "load", table, file], env=address)
        # Off by default: how many items match stands in every page.
        counting = "INSERT INTO pgstac.pgstac_settings VALUES ('context', 'on') "
        counting += "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        servers.run([servers.POSTGRES_BIN / "psql", "-c", counting], env=address)
        port = servers.free_port()
        command = [services / "uvicorn", "--factory", "stac_fastapi.pgstac.app:create_app"]
        command += ["--host", "127.0.0.1", "--port", port]
        with servers.running(command, port=port, log=logs / "uvicorn.log", env=address):
            yield SimpleNamespace(url=f"http://127.0.0.1:{port}", port=port, path=held.path)


@pytest.fixture
def failing(stac, monkeypatch):
    """The same server behind a proxy that fails as `faults` and `always` say."""
    monkeypatch.setattr(api, "BACKOFF", 0)
    with proxy.proxied(stac.port) as front:
        yield front


@pytest.fixture(scope="session")
def s3(services, scene, logs):
    """An S3 store with the simulated scene in a bucket."""
    port, bucket = servers.free_port(), "scenes"
    endpoint = f"127.0.0.1:{port}"
    command = [services / "moto_server", "-H", "127.0.0.1", "-p", port]
    with servers.running(command, port=port, log=logs / "moto.log"):
        put(f"http://{endpoint}/{bucket}")
        for file in sorted(scene.folder.rglob("*.tif")):
            key = file.relative_to(scene.folder).as_posix()
            put(f"http://{endpoint}/{bucket}/{key}", file.read_bytes())
        yield SimpleNamespace(endpoint=endpoint, bucket=bucket)


@pytest.fixture
def bucket(s3, monkeypatch):
    """Address of an empty place in the bucket, keys in the environment."""
    told = {
        "AWS_ENDPOINT_URL": f"http://{s3.endpoint}",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3.bucket}/basin-{uuid.uuid4().hex}"


def put(url, content=b"", *, access="private"):
    # Unnamed, the content would pass for a form's, and moto would wait for more of it.
    kind = {"Content-Type": "application/octet-stream", "x-amz-acl": access}
    request = urllib.request.Request(url, data=content, headers=kind, method="PUT")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200


@pytest.fixture(scope="session")
def moved():
    """Items of a file whose links below `folder` begin with another address."""

    def move(path, folder, address):
        items = read_items(path)
        for item in items:
            for asset in item.assets.values():
                asset.href = asset.href.replace(str(folder.resolve()), address)
                assert asset.href.startswith(address)
        return items

    return move
