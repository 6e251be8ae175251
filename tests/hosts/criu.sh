#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# criu.sh DIRECTORY: puts a CRIU 4 there that runs on this host, whatever libraries the host has: Debian trixie's, unpacked, with its own loader.
# Prints the program's path. Needs mmdebstrap and patchelf; 7 s, once.
set -euo pipefail
kit=$1
if [[ ! -x $kit/criu ]]; then
  rm -rf "$kit.new"; mkdir -p "$kit.new"
  mmdebstrap --variant=extract --include=criu trixie "$kit.new/root" >"$kit.new/log" 2>&1 || { tail -3 "$kit.new/log" >&2; exit 1; }
  loader=$(find "$kit.new/root" -name 'ld-linux*.so.*' -print -quit)
  root=$kit/root
  cp "$kit.new/root/usr/sbin/criu" "$kit.new/criu"
  triplet=$(basename "$(dirname "$(find "$kit.new/root/usr/lib" -name 'libprotobuf-c.so.1' -print -quit)")")
  patchelf --set-interpreter "$root${loader#"$kit.new/root"}" --force-rpath --set-rpath "$root/usr/lib/$triplet:$root/lib/$triplet" "$kit.new/criu"
  rm -rf "$kit"; mv "$kit.new" "$kit"
fi
"$kit/criu" --version >/dev/null
echo "$kit/criu"
