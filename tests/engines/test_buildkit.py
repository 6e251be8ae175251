# SPDX-License-Identifier: Apache-2.0
"""BuildKit, as Docker has it inside: it runs what is called runc on its PATH, without a shim, in the foreground. Asked by Docker's API, because
its command line leaves this to a plugin of its own by now.
"""

import base64
import http.client
import io
import json
import socket
import tarfile
from pathlib import Path

import pytest

from .conftest import Engine

pytestmark = [pytest.mark.requires("root"), pytest.mark.ours]

GOOD = """
FROM box
ENV COLOUR=blue
RUN echo $COLOUR >/made && id -u >>/made && hostname >/dev/null
WORKDIR /work
USER 1000
RUN echo out-$(id -u)-$(pwd); cat /proc/1/comm; touch /refused || echo err-refused >&2
USER 0
RUN test $(cat /proc/1/comm) = sh && test ! -e /refused && echo more >>/made
"""


class Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(self.path)


def build(docker: Engine, dockerfile: str, tag: str) -> tuple[str, str]:
    """What was said on the way, and the error, "" for none."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(dockerfile.encode())
        tar.addfile(info, io.BytesIO(dockerfile.encode()))
    connection = Connection(docker.prefix[-1].removeprefix("unix://"))
    path = f"/v1.40/build?version=2&networkmode=none&nocache=1&t={tag}"
    connection.request("POST", path, context.getvalue(), {"Content-Type": "application/x-tar"})
    answer = connection.getresponse()
    lines = [json.loads(line) for line in answer.read().splitlines() if line.strip()]
    connection.close()
    assert answer.status == 200, lines
    said = "".join(base64.b64decode(line["aux"]).decode(errors="replace") for line in lines if line.get("id") == "moby.buildkit.trace")
    return said, "".join(line.get("error", "") for line in lines)


def test_a_build(docker: Engine, home: Path) -> None:
    said, error = build(docker, GOOD, "kitted")
    assert error == "", said
    assert "out-1000-/work" in said and "err-refused" in said
    assert docker.run("kitted", "sh", "-c", "cat /made; pwd; id -u").stdout == "blue\n0\nmore\n/work\n0\n"
    assert list((home / "docker/data/buildkit/executor").glob("*/config.json")) == []  # each bundle is gone with its container


def test_failures_are_told_with_their_exit_code(docker: Engine) -> None:
    assert "exit code: 37" in build(docker, "FROM box\nRUN exit 37\n", "failing")[1]
    assert "exit code: 137" in build(docker, "FROM box\nRUN sh -c 'kill -KILL $$'; exit $?\n", "failing")[1]
    assert "nosuchprogram" in build(docker, 'FROM box\nRUN ["nosuchprogram"]\n', "failing")[1]
