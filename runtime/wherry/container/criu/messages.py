# SPDX-License-Identifier: Apache-2.0
"""The messages of CRIU's RPC, as far as they are used: names and numbers are CRIU's (criu.org, RPC)."""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

DUMP, RESTORE, PRE_DUMP, NOTIFY, FEATURE_CHECK, VERSION = 1, 2, 4, 6, 9, 10
"""criu_req_type"""

CGROUP_MODES = {"ignore": 0, "none": 1, "props": 2, "soft": 3, "full": 4, "strict": 5, "default": 6}
"""criu_cg_mode"""

_FIELDS: dict[str, dict[str, tuple[int, str]]] = {
    "page_server": {"address": (1, "string"), "port": (2, "int32"), "pid": (3, "int32"), "fd": (4, "int32")},
    "pair": {"key": (1, "string"), "val": (2, "string")},
    "inherit_fd": {"key": (1, "string"), "fd": (2, "int32")},
    "cgroup_root": {"ctrl": (1, "string"), "path": (2, "string")},
    "opts": {
        "images_dir_fd": (1, "int32"),
        "pid": (2, "int32"),
        "leave_running": (3, "bool"),
        "ext_unix_sk": (4, "bool"),
        "tcp_established": (5, "bool"),
        "evasive_devices": (6, "bool"),
        "shell_job": (7, "bool"),
        "file_locks": (8, "bool"),
        "log_level": (9, "int32"),
        "log_file": (10, "string"),
        "ps": (11, "page_server"),
        "notify_scripts": (12, "bool"),
        "root": (13, "string"),
        "parent_img": (14, "string"),
        "track_mem": (15, "bool"),
        "auto_dedup": (16, "bool"),
        "work_dir_fd": (17, "int32"),
        "link_remap": (18, "bool"),
        "ext_mnt": (23, "*pair"),
        "manage_cgroups": (24, "bool"),
        "cg_root": (25, "*cgroup_root"),
        "rst_sibling": (26, "bool"),
        "inherit_fd": (27, "*inherit_fd"),
        "manage_cgroups_mode": (34, "int32"),
        "external": (37, "*string"),
        "empty_ns": (38, "uint32"),
        "freeze_cgroup": (44, "string"),
        "tcp_skip_in_flight": (46, "bool"),
        "lazy_pages": (48, "bool"),
        "status_fd": (49, "int32"),
        "orphan_pts_master": (50, "bool"),
        "tcp_close": (52, "bool"),
        "lsm_profile": (53, "string"),
        "lsm_mount_context": (63, "string"),
    },
    "features": {"mem_track": (1, "bool"), "lazy_pages": (2, "bool")},
    "request": {"type": (1, "int32"), "opts": (2, "opts"), "notify_success": (3, "bool"), "features": (5, "features")},
    "restored": {"pid": (1, "int32")},
    "notify": {"script": (1, "string"), "pid": (2, "int32")},
    "version": {"major_number": (1, "int32"), "minor_number": (2, "int32"), "sublevel": (4, "int32")},
    "response": {
        "type": (1, "int32"),
        "success": (2, "bool"),
        "restore": (4, "restored"),
        "notify": (5, "notify"),
        "cr_errno": (7, "int32"),
        "features": (8, "features"),
        "cr_errmsg": (9, "string"),
        "version": (10, "version"),
    },
}
"""Message -> field -> (number, type); enumerations are int32 on the wire, and "*" means repeated."""

_TYPES = {"string": 9, "int32": 5, "uint32": 13, "bool": 8}
_OPTIONAL, _REPEATED, _MESSAGE = 1, 3, 11


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="wherry/criu.proto", package="wherry.criu", syntax="proto2")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            plain = kind.lstrip("*")
            label: Any = _REPEATED if kind[0] == "*" else _OPTIONAL
            if plain in _TYPES:
                scalar: Any = _TYPES[plain]
                message.field.add(name=field, number=number, label=label, type=scalar)
            else:
                composite: Any = _MESSAGE
                message.field.add(name=field, number=number, label=label, type=composite, type_name=f".wherry.criu.{plain}")
    return file


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())
Request: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("wherry.criu.request"))
Response: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("wherry.criu.response"))
