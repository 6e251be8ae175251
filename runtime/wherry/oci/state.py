# SPDX-License-Identifier: Apache-2.0
"""The state document, where Python builds it: hooks' stdin, `list`, the library. (`state` itself is C's, from the container's record.)"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.oci.model import Config, State

STATUSES = ("creating", "created", "running", "paused", "stopped")


def document(
    config: "Config", id: str, status: str, pid: int, bundle: str, created: "str | None" = None, owner: "str | None" = None
) -> "State":
    """As the specification wants it, and rootfs, created and owner as engines expect them. A stopped container has pid 0."""
    state: "State" = {
        "ociVersion": config["ociVersion"],
        "id": id,
        "pid": 0 if status == "stopped" else pid,
        "status": status,
        "bundle": bundle,
    }
    path = config.get("root", {}).get("path")
    if isinstance(path, str):
        state["rootfs"] = path if path.startswith("/") else f"{bundle}/{path}"
    if created is not None:
        state["created"] = created
    if config.get("annotations"):
        state["annotations"] = config["annotations"]
    if owner is not None:
        state["owner"] = owner
    return state
