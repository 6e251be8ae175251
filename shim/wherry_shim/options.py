# SPDX-License-Identifier: Apache-2.0
"""What a Create may say about the runtime: containerd.runc.v1.Options, or runtimeoptions.v1.Options, whose body is a table of TOML."""

from wherry_shim.errors import INVALID_ARGUMENT, ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Message = dict[str, Any]

_RUNC = ("containerd.runc.v1.Options", "containerd.linux.runc.CreateOptions")
_ENGINE = ("runtimeoptions.v1.Options", "cri.runtimeoptions.v1.Options")

_KEYS = {"NoPivotRoot": "no_pivot_root", "NoNewKeyring": "no_new_keyring", "Root": "root", "SystemdCgroup": "systemd_cgroup"}
_KEYS |= {"IoUid": "io_uid", "IoGid": "io_gid", "CriuWorkPath": "criu_work_path"}
"""As the configuration of CRI names them. BinaryName, ShimCgroup and CriuPath mean nothing to a runtime in-process."""


class RuntimeOptions:
    """What is left of either message. root: "" = the server's own."""

    __slots__ = ("criu_work_path", "io_owner", "no_new_keyring", "no_pivot_root", "root", "systemd_cgroup")

    def __init__(self, no_pivot_root: bool = False, no_new_keyring: bool = False, root: str = "", systemd_cgroup: bool = False) -> None:
        self.no_pivot_root, self.no_new_keyring = no_pivot_root, no_new_keyring
        self.root, self.systemd_cgroup = root, systemd_cgroup
        self.io_owner = (0, 0)
        self.criu_work_path = ""


def read(any: "Message | None", unpack: "Callable[[Message], Message]") -> RuntimeOptions:
    url = (any or {}).get("type_url") or ""
    name = url.rpartition("/")[2]
    if any is None or not name:
        return RuntimeOptions()
    if name in _RUNC:
        return _from_fields(unpack(any))
    if name in _ENGINE:
        return _from_table(unpack(any))
    raise ShimError(INVALID_ARGUMENT, f"unsupported option type {name!r}")


def _from_fields(fields: "Message") -> RuntimeOptions:
    root, criu = fields.get("root") or "", fields.get("criu_work_path") or ""
    for name, path in (("root", root), ("criu_work_path", criu)):
        if path and not path.startswith("/"):
            raise ShimError(INVALID_ARGUMENT, f"options: {name} {path!r} is not absolute")
    options = RuntimeOptions(
        bool(fields.get("no_pivot_root")), bool(fields.get("no_new_keyring")), root.rstrip("/"), bool(fields.get("systemd_cgroup"))
    )
    options.criu_work_path = criu
    options.io_owner = (int(fields.get("io_uid") or 0), int(fields.get("io_gid") or 0))
    return options


def _from_table(fields: "Message") -> RuntimeOptions:
    """The body, else the file that config_path names. Its type_url says whose options they are: runc's, or none that we know."""
    body = fields.get("config_body") or b""
    if not body and not fields.get("config_path"):
        return RuntimeOptions()
    import tomllib

    try:
        if not body:
            with open(fields["config_path"], "rb") as file:
                body = file.read()
        table = tomllib.loads(body.decode())
    except (OSError, ValueError) as error:
        raise ShimError(INVALID_ARGUMENT, f"options: {error}") from error
    return _from_fields({field: table.get(key, table.get(field)) for key, field in _KEYS.items()})
