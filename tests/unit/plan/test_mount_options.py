# SPDX-License-Identifier: Apache-2.0
"""The table of mount options: each group, later words win, what a bind makes of them."""

from __future__ import annotations

import pytest
from support import MAPPINGS, bind, host, namespaces, plan, small, steps, texts, with_mounts

from wherry.errors import ConfigError
from wherry.oci.checks import MOUNT_OPTIONS
from wherry.plan import mounts
from wherry.plan.mounts import Choice

RO, NOSUID, NODEV, NOEXEC, NODIRATIME, NOSYMFOLLOW = 1, 2, 4, 8, 0x80, 0x200000
EVERY = RO | NOSUID | NODEV | NOEXEC | NOSYMFOLLOW
TIMES = 0x70 | NODIRATIME
REC = 0x4000


def attributes(*words: str, **more: object) -> list[int]:
    """Of the bind mount that these options make on a host with the newest kernel."""
    step = steps(plan(with_mounts(bind("bind", *words)), **more), "MOUNT_BIND")[0]  # type: ignore[arg-type]
    found: list[int] = step.fields["attributes"]
    return found


def test_the_table_knows_what_the_specification_names() -> None:
    assert set(mounts.OPTIONS) == set(MOUNT_OPTIONS)


@pytest.mark.parametrize(
    ("words", "set_", "clear"),
    [
        ("ro", RO, EVERY - RO),
        ("rw", 0, EVERY),
        ("ro rw", 0, EVERY),
        ("rw ro", RO, EVERY - RO),
        ("nosuid nodev noexec", NOSUID | NODEV | NOEXEC, RO | NOSYMFOLLOW),
        ("suid dev exec", 0, EVERY),
        ("nosymfollow nodiratime", NOSYMFOLLOW | NODIRATIME, RO | NOSUID | NODEV | NOEXEC | 0x70),
        ("relatime", 0, EVERY | TIMES),
        ("noatime", 0x10, EVERY | TIMES),
        ("strictatime", 0x20, EVERY | TIMES),
        ("noatime relatime", 0x10, EVERY | TIMES),  # of several ways: strictatime, else noatime, in whatever order
        ("relatime strictatime noatime", 0x20, EVERY | TIMES),
        ("strictatime relatime", 0x20, EVERY | TIMES),
        ("strictatime noatime nostrictatime", 0x10, EVERY | TIMES),
        ("noatime atime", 0, EVERY),  # as mount(2): a remount that names no way of its own keeps the source's
        ("strictatime nostrictatime", 0, EVERY),
        ("atime", 0, EVERY),
        ("relatime noatime", 0x10, EVERY | TIMES),
        ("noatime nodiratime diratime", 0x10, EVERY | TIMES),
        ("diratime symfollow", 0, EVERY),
    ],
)
def test_any_flag_makes_all_flags_of_a_bind_as_the_options_say(words: str, set_: int, clear: int) -> None:
    assert attributes(*words.split())[:2] == [set_, clear]


def test_a_remount_tells_the_filesystem_too() -> None:
    found = steps(plan(with_mounts({"destination": "/ext", "options": ["remount", "ro", "commit=5"]})), "REMOUNT")[0].fields
    assert (found["superblock"], found["data"], found["attributes"][:2]) == (RO, "commit=5", [RO, EVERY - RO])


def test_without_a_flag_a_bind_keeps_those_of_its_source() -> None:
    assert attributes() == [0] * 8
    assert attributes("defaults", "rprivate")[:4] == [0] * 4


@pytest.mark.parametrize(
    ("words", "set_", "clear"),
    [
        ("rro", RO, 0),
        ("rrw", 0, RO),
        ("rro rrw", 0, RO),
        ("rnosuid rnodev rnoexec", NOSUID | NODEV | NOEXEC, 0),
        ("rnoatime", 0x10, 0x70),
        ("rrelatime", 0, 0x70),
        ("rstrictatime", 0x20, 0x70),
        ("rnorelatime", 0, 0x70),
        ("rnodiratime rnosymfollow", NODIRATIME | NOSYMFOLLOW, 0),
        ("rsymfollow", 0, NOSYMFOLLOW),
    ],
)
def test_recursive_attributes(words: str, set_: int, clear: int) -> None:
    """For any atime member the whole field is cleared: else the kernel says EINVAL."""
    assert attributes(*words.split())[:4] == [0, 0, set_, clear]


def test_kernels_before_5_14_do_not_know_nosymfollow() -> None:
    assert attributes("ro", facts=host("v2", kernel="5.13.0"))[1] & NOSYMFOLLOW == 0
    assert attributes("ro", facts=host("v2", kernel="5.14.0"))[1] & NOSYMFOLLOW


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("shared", [1 << 20]),
        ("rslave", [1 << 19 | REC]),
        ("slave shared", [1 << 19, 1 << 20]),
        ("private rprivate unbindable runbindable", [1 << 18, 1 << 18 | REC, 1 << 17, 1 << 17 | REC]),
    ],
)
def test_propagation_in_order(words: str, flags: list[int]) -> None:
    assert attributes(*words.split())[4:] == flags + [0] * (4 - len(flags))


def test_a_fifth_propagation_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        attributes(*["shared"] * 5)
    assert error.value.pointer == "/mounts/0/options"


@pytest.mark.parametrize(
    ("words", "flags", "data"),
    [
        ("sync dirsync", 0x90, None),
        ("sync async", 0, None),
        ("lazytime mand iversion silent", 1 << 25 | 0x40 | 1 << 23 | 0x8000, None),
        ("lazytime nolazytime mand nomand iversion noiversion silent loud", 0, None),
        ("ro", 1, None),
        ("defaults size=1 b=c", 0, "size=1,b=c"),
    ],
)
def test_superblock_and_data(words: str, flags: int, data: str | None) -> None:
    step = steps(plan(with_mounts({"destination": "/x", "type": "ext4", "source": "/dev/x", "options": words.split()})), "MOUNT_FS")[0]
    assert (step.fields["superblock"], step.fields["data"]) == (flags, data)


@pytest.mark.parametrize("kind", ["proc", "tmpfs", "sysfs", "mqueue", "devpts"])
def test_the_kernels_own_filesystems_are_read_only_as_mounts_alone(kind: str) -> None:
    step = steps(plan(with_mounts({"destination": "/x", "type": kind, "options": ["ro"]})), "MOUNT_FS", "MOUNT_SYSFS")[0]
    assert (step.fields["superblock"], step.fields["attributes"][0]) == (0, RO)


def test_tmpfs_becomes_read_only_when_all_is_in_it() -> None:
    found = plan(with_mounts({"destination": "/x", "type": "tmpfs", "options": ["ro"]}, bind("bind", destination="/x/y")))
    names = [step.name for step in found.steps]
    assert "readonly-late" in texts(found, "MOUNT_FS")[0]
    assert texts(found, "MOUNT_ATTRIBUTES") == ["change the mount on /x: set ro"]
    assert names.index("MOUNT_BIND") < names.index("SYMLINK") < names.index("MOUNT_ATTRIBUTES") < names.index("PIVOT")


@pytest.mark.parametrize(("words", "mode"), [([], True), (["size=1"], True), (["mode=700"], False)])
def test_tmpfs_takes_the_mode_of_its_target_unless_one_is_given(words: list[str], mode: bool) -> None:
    found = texts(plan(with_mounts({"destination": "/x", "type": "tmpfs", "options": words})), "MOUNT_FS")[0]
    assert ("target-mode" in found) is mode


def test_targets_of_proc_and_sys_are_no_symlinks() -> None:
    kinds = [{"destination": "/p", "type": "proc"}, {"destination": "/s", "type": "sysfs"}, {"destination": "/t", "type": "tmpfs"}]
    found = plan(with_mounts(*kinds, bind("rbind", destination="/sys", source="/sys"), bind("rbind", destination="/proc", source="/proc")))
    assert ["proc-target" in text for text in texts(found, "MOUNT_FS", "MOUNT_SYSFS", "MOUNT_BIND")] == [True, True, False, True, True]


@pytest.mark.parametrize("path", ["/proc/meminfo", "/proc/sys/kernel/ns_last_pid", "/proc//cpuinfo"])
def test_files_that_stand_in_for_those_of_proc(path: str) -> None:
    assert "on-proc" in texts(plan(with_mounts(bind("bind", destination=path))), "MOUNT_BIND")[0]


# ---- in a user namespace, where flags of the host's mounts are locked


def user() -> dict[str, object]:
    return {"linux__namespaces": namespaces("mount", "user"), **MAPPINGS}


def test_in_a_user_namespace_locked_flags_stay_and_named_ones_must_go() -> None:
    found = plan(with_mounts(bind("rbind", "rw", "nosuid"), **user()))
    assert (
        texts(found, "MOUNT_BIND")[0]
        == "attach tree r1 to /data [keep-locked create]: set nosuid; clear ro,nodev,noexec,nosymfollow"
    )
    assert texts(found, "MOUNT_ATTRIBUTES") == ["change the mount on /data: clear ro"]


def test_what_is_set_for_all_below_is_not_cleared_again() -> None:
    assert texts(plan(with_mounts(bind("rbind", "rw", "rro"), **user())), "MOUNT_ATTRIBUTES") == []


# ---- id mappings


def one(container: int = 0, outside: int = 1000, size: int = 1) -> list[dict[str, int]]:
    return [{"containerID": container, "hostID": outside, "size": size}]


def test_mappings_of_a_mount() -> None:
    found = plan(with_mounts(bind("rbind", "ridmap", uidMappings=one(), gidMappings=one(5, 6, 7))))
    assert [(step.executor, step.text) for step in steps(found, "OPEN_TREE", "IDMAP_TREE")][1:] == [
        ("launcher", "clone mount tree /srv/data with all below it as r1"),
        ("launcher", "map ids of tree r1 with all below it: uids 0 1000 1; gids 5 6 7"),
    ]


def test_mappings_alone_mean_idmap_of_the_top_mount() -> None:
    found = plan(with_mounts(bind("rbind", uidMappings=one(), gidMappings=one())))
    assert texts(found, "IDMAP_TREE") == ["map ids of tree r1: uids 0 1000 1; gids 0 1000 1"]


def test_idmap_without_mappings_takes_those_of_the_container() -> None:
    assert "as the container's user namespace does" in texts(plan(with_mounts(bind("bind", "idmap"), **user())), "IDMAP_TREE")[0]


def test_a_new_filesystem_is_mapped_before_it_is_attached() -> None:
    mount = {"destination": "/x", "type": "tmpfs", "source": "none", "options": ["ro", "nosuid", "size=1m"], "uidMappings": one(), "gidMappings": one()}
    found = plan(with_mounts(mount))
    assert [(step.executor, step.text) for step in steps(found, "CREATE_TREE", "IDMAP_TREE", "MOUNT_BIND")] == [
        ("launcher", "make tmpfs as r1 from none with size=1m"),
        ("launcher", "map ids of tree r1: uids 0 1000 1; gids 0 1000 1"),
        ("init", "attach tree r1 to /x [create]: set nosuid"),
    ]
    assert [step.fields["destination"] for step in steps(found, "MOUNT_ATTRIBUTES")] == ["/x"]


@pytest.mark.parametrize(("kind", "option"), [("proc", "idmap"), ("sysfs", "idmap"), ("cgroup", "ridmap"), ("mqueue", "idmap"), ("tmpfs", "tmpcopyup")])
def test_what_cannot_have_mappings(kind: str, option: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan(with_mounts({"destination": "/x", "type": kind, "options": [option], "uidMappings": one(), "gidMappings": one()}))
    assert (error.value.code, error.value.pointer) == ("WHERRY-CONFIG-MAPPINGS", "/mounts/0")


# ---- sources and places


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("/a//b/./c/../d/", "/a/b/d"),
        ("rel", "<bundle>/rel"),
        ("./x/../y", "<bundle>/y"),
        ("../x", "<bundle>/../x"),
        ("a/../../../x/./y", "<bundle>/../../x/y"),
        (".", "<bundle>/"),
        ("/../x", "/x"),
        ("/", "/"),
    ],
)
def test_sources(source: str, shown: str) -> None:
    assert steps(plan(with_mounts(bind("bind", source=source))), "OPEN_TREE")[1].fields["source"] == shown


def test_a_source_cannot_smuggle_a_slot() -> None:
    for mount in (bind("bind", source="/a\x01A"), {"destination": "/x", "type": "ext4", "source": "\x01A"}):
        with pytest.raises(ConfigError) as error:
            plan(with_mounts(mount))
        assert error.value.pointer == "/mounts/0/source"


@pytest.mark.parametrize(
    ("path", "shown"), [("a/b", "/a/b"), ("//a/./b/", "/a/b"), ("/a/../../b", "/b"), ("/.hidden", "/.hidden"), ("/..x", "/..x"), ("/", "/")]
)
def test_destinations(path: str, shown: str) -> None:
    assert steps(plan(with_mounts(bind("bind", destination=path))), "MOUNT_BIND")[0].fields["destination"] == shown


def test_an_empty_option_is_no_data() -> None:
    assert Choice(["", "defaults"], "").data == []


def test_a_mount_on_the_rootfs_itself_is_left_to_the_core() -> None:
    assert len(steps(plan(small(mounts=[bind("rbind", destination="/")])), "MOUNT_BIND")) == 1
