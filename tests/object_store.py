"""An object store on loopback that speaks S3, for tests that read URIs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from qin.runtime import sources

BUCKET = "logs"


class ObjectStore:
    """A bucket, filled from local files."""

    def __init__(self, client: Any) -> None:
        self._client = client
        client.create_bucket(Bucket=BUCKET)

    def put(self, path: Path, key: str) -> str:
        """Store a file, or all files of a folder below the key; returns the URI."""
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                inside = f"{key}/{file.relative_to(path).as_posix()}" if path.is_dir() else key
                self._client.put_object(Bucket=BUCKET, Key=inside, Body=file.read_bytes())
        return f"s3://{BUCKET}/{key}"

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._client.delete_object(Bucket=BUCKET, Key=key)


@contextmanager
def object_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """Start the store, and name it and its credentials in the environment, as a user would."""
    moto_server, boto3 = pytest.importorskip("moto.server"), pytest.importorskip("boto3")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    sources._filesystem.cache_clear()  # connections to an earlier store
    try:
        yield ObjectStore(boto3.client("s3"))
    finally:
        server.stop()
