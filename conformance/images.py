# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the two images that runc's suite downloads, made of this machine's Debian packages: busybox-static, and mmdebstrap.

    python conformance/images.py CHECKOUT

They lie where the suite looks for its own, and are taken for them. Where the suite can download, let it.
"""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

DIRECTORIES = "bin dev etc home lib root tmp usr/bin usr/sbin var/spool/mail var/www"
PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
GROUP = "root:x:0:\ndaemon:x:1:\nbin:x:2:\ntty:x:5:\nmail:x:8:\nwww-data:x:33:\nusers:x:100:\nnobody:x:65534:\n"
LEFT_OUT = ("usr/share/doc", "usr/share/locale", "usr/share/man", "usr/share/zoneinfo", "var/lib/apt", "var/cache", "dev")


def add(archive: tarfile.TarFile, name: str, kind: bytes = tarfile.DIRTYPE, mode: int = 0o755, content: bytes = b"", link: str = "") -> None:
    entry = tarfile.TarInfo(f"./{name}")
    entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), link
    archive.addfile(entry, io.BytesIO(content))


def busybox(place: Path) -> None:
    program = shutil.which("busybox")
    if not program:
        raise SystemExit("images: needs busybox (apt-get install busybox-static)")
    applets = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(place, "w") as archive:
        for name in DIRECTORIES.split():
            add(archive, name, mode={"tmp": 0o1777, "root": 0o700}.get(name, 0o755))
        add(archive, "bin/busybox", tarfile.REGTYPE, content=Path(program).read_bytes())
        for name in applets:
            if name != "busybox":
                add(archive, f"bin/{name}", tarfile.LNKTYPE, link="./bin/busybox")
        add(archive, "usr/bin/env", tarfile.SYMTYPE, link="../../bin/env")
        add(archive, "lib64", tarfile.SYMTYPE, link="lib")
        for name, text in (("etc/passwd", PASSWD), ("etc/group", GROUP)):
            add(archive, name, tarfile.REGTYPE, 0o644, text.encode())


def debian(place: Path) -> None:
    if not shutil.which("mmdebstrap"):
        raise SystemExit("images: needs mmdebstrap (apt-get install mmdebstrap)")
    with tempfile.TemporaryDirectory() as directory:
        whole = Path(directory) / "whole.tar"
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "--include=libcap2-bin", "stable", whole], check=True)
        with tarfile.open(whole) as source, tarfile.open(place, "w") as archive:
            for entry in source:
                if not entry.name.removeprefix("./").startswith(LEFT_OUT):
                    archive.addfile(entry, source.extractfile(entry) if entry.isreg() else None)
            add(archive, "dev")


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    testdata = Path(sys.argv[1]) / "tests/integration/testdata"
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    for name, make in (("busybox", busybox), ("debian", debian)):
        place = testdata / f"{name}-{architecture}.tar.xz"  # tar looks at what it is, not at the name
        if not place.exists():
            make(place)
            print(place)


if __name__ == "__main__":
    main()
