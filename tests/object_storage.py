"""A server that speaks S3 on loopback (moto's), a bucket in it, and machines that share it: caches of their own."""

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from hubflow.stages.remote import CACHE_VARIABLE

KEY, SECRET = "AKIAHUBFLOW", "not-a-secret-but-told-apart"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """A server of this process; gives its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@dataclass(frozen=True)
class ObjectStorage:
    """One bucket, seen from outside of hubflow."""

    endpoint: str
    bucket: str
    caches: Path
    patch: pytest.MonkeyPatch

    @classmethod
    def prepared(cls, endpoint: str, folder: Path, patch: pytest.MonkeyPatch) -> "ObjectStorage":
        """A new bucket; this process has the credentials in its environment and is machine `one`."""
        made = cls(endpoint, f"bucket-{uuid.uuid4().hex}", folder / "caches", patch)
        for name, value in made.environment.items():
            patch.setenv(name, value)
        made.client.create_bucket(Bucket=made.bucket)
        made.be("one")
        return made

    @property
    def environment(self) -> dict[str, str]:
        """What says where the server is and who asks."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def url(self) -> str:
        """URL of a store in it."""
        return f"s3://{self.bucket}/store"

    @property
    def client(self) -> Any:
        """boto3's own."""
        return boto3.client("s3", endpoint_url=self.endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET)

    def be(self, machine: str) -> None:
        """Have this process be another machine: one that has fetched nothing that others have."""
        self.patch.setenv(CACHE_VARIABLE, str(self.caches / machine))

    def objects(self, prefix: str = "") -> list[str]:
        """Paths in the store of all that the bucket holds below `prefix`."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"store/{prefix}")
        return [one["Key"].removeprefix("store/") for page in pages for one in page.get("Contents", [])]

    def read(self, path: str) -> bytes:
        """Content of one object."""
        return bytes(self.client.get_object(Bucket=self.bucket, Key=f"store/{path}")["Body"].read())

    def put(self, path: str, data: bytes) -> None:
        """Write one object."""
        self.client.put_object(Bucket=self.bucket, Key=f"store/{path}", Body=data)

    def delete(self, path: str) -> None:
        """Remove one object."""
        self.client.delete_object(Bucket=self.bucket, Key=f"store/{path}")
