# SPDX-License-Identifier: Apache-2.0
"""What containerd's shims have made is looked at as far as it can be read, and nothing is made of what cannot."""

import json
import os
from pathlib import Path

from wherry_shim.proto import wherry_shim_v1_pb2 as pb
from wherry_shim.serve.foreign import containers


def test_of_runc(tmp_path: Path) -> None:
    begun = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19]
    states = {
        "lives": {"init_process_pid": os.getpid(), "init_process_start": int(begun), "created": "2026-01-02T03:04:05.123456789Z", "config": {"labels": ["bundle=/b"]}},
        "reused": {"init_process_pid": os.getpid(), "init_process_start": 1},
        "damaged": [],
    }
    for id, state in states.items():
        (tmp_path / "runc/moby" / id).mkdir(parents=True)
        (tmp_path / "runc/moby" / id / "state.json").write_text(json.dumps(state))
    (tmp_path / "runc/moby/empty").mkdir()
    found = containers(tmp_path / "nowhere", tmp_path / "runc")
    assert [(one.id, one.status, one.owner, one.pid) for one in found] == [
        ("lives", pb.RUNNING, "containerd:moby", os.getpid()),
        ("reused", pb.STOPPED, "containerd:moby", 0),
    ]
    assert (found[0].bundle, found[0].created_at.seconds) == ("/b", 1767323045)


def test_nobody_is_there(tmp_path: Path) -> None:
    (tmp_path / "wherry/ns/broken").mkdir(parents=True)
    assert containers(tmp_path / "wherry", tmp_path) == []
