# SPDX-License-Identifier: Apache-2.0
"""linux.intelRdt against a directory in place of resctrl (no test machine has the hardware): what is made, written, compared, refused."""

from pathlib import Path

import pytest

from wherry.container import resctrl
from wherry.errors import ConfigError, HostError


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    for directory in (tmp_path, tmp_path / "there"):
        directory.mkdir(exist_ok=True)
        (directory / "tasks").write_text("")
        (directory / "schemata").write_text("    L3:0=ff;1=ff\n    MB:0=100;1=100\n")
        (directory / "mon_groups").mkdir()
    return tmp_path


class Kernel:
    """Does on mkdir what resctrl does: the files of a class appear."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        monkeypatch.setattr(resctrl, "_mkdir", self.mkdir)

    def mkdir(self, path: str, pointer: str) -> None:
        place = Path(path)
        place.mkdir()
        for name in ("tasks", "schemata"):
            (place / name).write_text("")
        (place / "mon_groups").mkdir()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def join(section: dict, mount: Path, kernel: Kernel) -> None:
    resctrl.join(section, "c1", 77, str(mount), kernel.made.append)


def test_a_class_of_its_own_is_named_after_the_container(mount: Path, kernel: Kernel) -> None:
    join({"l3CacheSchema": "L3:0=f", "enableMonitoring": True}, mount, kernel)
    assert (mount / "c1" / "schemata").read_text() == "L3:0=f\n"
    assert (mount / "c1" / "tasks").read_text() == "77"
    assert (mount / "c1" / "mon_groups" / "c1" / "tasks").read_text() == "77"
    assert kernel.made == [str(mount / "c1"), str(mount / "c1/mon_groups/c1")]
    assert kernel.made == resctrl.paths_made({"enableMonitoring": True}, "c1", str(mount))


def test_a_class_of_its_own_that_is_there_is_not_taken(mount: Path, kernel: Kernel) -> None:
    (mount / "c1").mkdir()
    with pytest.raises(HostError):
        join({"l3CacheSchema": "L3:0=f"}, mount, kernel)


def test_a_named_class_that_is_there_is_compared_and_stays_its_owners(mount: Path, kernel: Kernel) -> None:
    join({"closID": "there", "l3CacheSchema": "L3:1=FF;0=ff", "schemata": ["MB:1=100"]}, mount, kernel)
    assert kernel.made == []
    assert (mount / "there" / "tasks").read_text() == "77"


def test_a_named_class_with_another_schema_is_refused(mount: Path, kernel: Kernel) -> None:
    with pytest.raises(ConfigError) as caught:
        join({"closID": "there", "schemata": ["MB:1=100", "L3:0=f"]}, mount, kernel)
    assert caught.value.pointer == "/linux/intelRdt/schemata/1"
    assert (mount / "there" / "tasks").read_text() == ""


def test_a_named_class_that_is_missing_needs_a_schema(mount: Path, kernel: Kernel) -> None:
    with pytest.raises(ConfigError) as caught:
        join({"closID": "new"}, mount, kernel)
    assert caught.value.pointer == "/linux/intelRdt/closID"
    assert not (mount / "new").exists()
    join({"closID": "new", "memBwSchema": "MB:0=50"}, mount, kernel)
    assert (mount / "new" / "schemata").read_text() == "MB:0=50\n"


def test_the_root_class(mount: Path, kernel: Kernel) -> None:
    join({"closID": "/"}, mount, kernel)
    assert (mount / "tasks").read_text() == "77"
    assert resctrl.paths_made({"closID": "/"}, "c1", str(mount)) == []


def test_lines_keep_their_order_and_places() -> None:
    section = {"l3CacheSchema": "L3:0=f\nMB:0=9", "memBwSchema": "MB:0=50", "schemata": ["L2:0=1"]}
    assert resctrl.schemata_of(section) == [
        ("L3:0=f", "/linux/intelRdt/l3CacheSchema"),
        ("MB:0=50", "/linux/intelRdt/memBwSchema"),
        ("L2:0=1", "/linux/intelRdt/schemata/0"),
    ]


def test_no_resctrl_is_an_error_that_says_how_to_get_it(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("22 1 0:20 / /proc rw - proc proc rw\n")
    with pytest.raises(HostError) as caught:
        resctrl.mounted(str(table))
    assert caught.value.pointer == "/linux/intelRdt"
    table.write_text("22 1 0:20 / /sys/fs/rc rw - resctrl resctrl rw\n")
    assert resctrl.mounted(str(table)) == "/sys/fs/rc"
