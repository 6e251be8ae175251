# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, with the openssl command: an authority, and what it signs."""

import subprocess
import time
from pathlib import Path

import grpc

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=30)


class Authority:
    def __init__(self, place: Path, name: str = "ca") -> None:
        self.place, self.name = place, name
        place.mkdir(exist_ok=True)
        openssl("req", "-x509", *KEY, "-days", "30", "-subj", f"/CN={name}", "-keyout", self.key(name), "-out", self.certificate(name))

    def certificate(self, name: str) -> str:
        return str(self.place / f"{name}.crt")

    def key(self, name: str) -> str:
        return str(self.place / f"{name}.key")

    def sign(self, name: str, alternative: str = "", expired: bool = False, early: bool = False) -> None:
        """`expired`: since yesterday. `early`: good from next year on."""
        request = str(self.place / f"{name}.csr")
        openssl("req", "-new", *KEY, "-subj", f"/CN={name}", "-keyout", self.key(name), "-out", request)
        words = ["x509", "-req", "-in", request, "-CA", self.certificate(self.name), "-CAkey", self.key(self.name), "-CAcreateserial", "-out", self.certificate(name)]
        if alternative:
            extensions = self.place / f"{name}.ext"
            extensions.write_text(f"subjectAltName={alternative}\n")
            words += ["-extfile", str(extensions)]
        if early:  # x509 signs from now on only
            openssl(*words, "-days", "30")
            self._begin_next_year(name, request)
        else:
            openssl(*words, *("-days", "-1" if expired else "30"))

    def _begin_next_year(self, name: str, request: str) -> None:
        """As `openssl ca` signs, which keeps books."""
        place = self.place / "books"
        place.mkdir()
        (place / "index.txt").write_text("")
        (place / "serial").write_text("77\n")
        policy = "[p]\ncommonName = supplied\n"
        (place / "conf").write_text(
            f"[ca]\ndefault_ca = d\n[d]\ndatabase = {place}/index.txt\nserial = {place}/serial\nnew_certs_dir = {place}\ndefault_md = sha256\npolicy = p\n{policy}"
        )
        begin, end = (f"{time.gmtime().tm_year + year}0101000000Z" for year in (1, 2))
        words = ["ca", "-batch", "-notext", "-config", str(place / "conf"), "-cert", self.certificate(self.name), "-keyfile", self.key(self.name)]
        openssl(*words, "-startdate", begin, "-enddate", end, "-in", request, "-out", self.certificate(name))

    def credentials(self, name: str | None, roots: str) -> grpc.ChannelCredentials:
        """Of a client; with no name: without a certificate."""
        with open(roots, "rb") as file:
            root = file.read()
        if name is None:
            return grpc.ssl_channel_credentials(root)
        return grpc.ssl_channel_credentials(root, Path(self.key(name)).read_bytes(), Path(self.certificate(name)).read_bytes())
