# SPDX-License-Identifier: Apache-2.0
"""A server of an ordinary user: containers in user namespaces of their own, without cgroups. What that cannot have is refused with the reason."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from harness.bundle import Bundle
from wherry_shim.proto import wherry_shim_v1_pb2 as pb

from .asks import execute, get, refused, wait
from .driver import PATIENCE, Server

pytestmark = pytest.mark.requires("root", "userns")
Code = grpc.StatusCode
USER = 61234
MAIN = "import sys; sys.argv[0] = 'wherry-shim'; from wherry_shim.command import main; main()"


class OfAUser(Server):
    """The installation is mounted where this user can read it, for this server alone."""

    def words(self) -> list[str]:
        site, place = self.place / "site", sysconfig.get_path("purelib")
        user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all"]
        script = f'mount --bind {place} {site}; PYTHONPATH={site} HOME={self.place} exec "$@"'
        return ["unshare", "--mount", "sh", "-ec", script, "sh", *user, str(Path(sys.executable).resolve()), "-c", MAIN, *super().words()[1:]]


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Iterator[Server]:
    made = make_server()
    made.__class__ = OfAUser
    for parent in (made.place, made.place.parent):
        parent.chmod(0o711)
    (made.place / "site").mkdir()
    for directory in (made.root, made.data, made.path.parent):
        directory.mkdir(mode=0o700)
        os.chown(directory, USER, USER)
    yield made.start()
    made.clean_up()
    for directory in (made.root, made.data):
        shutil.rmtree(directory)


def owned(bundle: Bundle) -> Bundle:
    """As an ordinary user's is."""
    bundle.namespace("user")
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": USER, "size": 1}]
    del bundle.linux["cgroupsPath"]
    for mount in bundle.config["mounts"]:
        if "gid=5" in mount.get("options", []):
            mount["options"].remove("gid=5")
    bundle.save().chown(USER)
    bundle.path.chmod(0o755)
    os.chown(bundle.path, USER, USER)
    return bundle


def test_a_server_of_an_ordinary_user(server: Server, make_bundle: Callable[[], Bundle], place: Path) -> None:
    policy = pb.RestartPolicy(when=pb.RestartPolicy.ON_FAILURE, limit=1)
    policy.backoff.FromMilliseconds(50)
    server.run(owned(make_bundle().shell("echo $(id -u); exit 3")), restart=policy)
    assert wait(server, condition=pb.WaitRequest.STOPPED).exit.run == 2 and server.output() == "0\n0\n"
    probe = pb.Probe(args=["true"])
    probe.interval.FromMilliseconds(100)
    bundle = owned(make_bundle())
    server.run(bundle, "b", probe=probe)
    wait(server, "b", pb.WaitRequest.HEALTHY)
    done = execute(server, "sh", "-c", "cat; exit 4", id="b", stdin=True).say(stdin=b"in\n").say(close_stdin=True)
    assert done.end().status == 4 and done.data[pb.STDOUT] == b"in\n"
    server.restart()
    assert get(server, "b").status == pb.RUNNING and Path(f"/proc/{get(server, 'b').pid}").stat().st_uid == USER
    for call, request in (
        (server.shim.Pause, pb.PauseRequest(id="b")),
        (server.shim.Update, pb.UpdateRequest(id="b", resources=b'{"pids": {"limit": 9}}')),
        (server.shim.Stats, pb.StatsRequest(ids=["b"], once=True)),
    ):
        found = refused(call, request)
        assert found.code is Code.FAILED_PRECONDITION and "no cgroup" in found.text, found.text
    assert not list(server.shim.Stats(pb.StatsRequest(once=True), timeout=PATIENCE)), "of what cannot be measured nothing is said"
    assert server.shim.Delete(pb.DeleteRequest(id="b", force=True), timeout=PATIENCE).exit.signal == 9
    bundle.resources["pids"] = {"limit": 9}
    bundle.linux["cgroupsPath"] = "/of-an-ordinary-user"
    found = refused(server.shim.Create, pb.CreateRequest(id="c", bundle=str(bundle.save().path)))
    assert found.code is not Code.INTERNAL and "cgroup" in found.text and found.remedy, (found.code, found.text)
