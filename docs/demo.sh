#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A container's life in a minute: docs/demo.sh [WHERRY]. As root, or as an ordinary user (rootless). Needs a static busybox.
set -euo pipefail
wherry=$(realpath "${1:-$(dirname "$0")/../.venv/bin/wherry}")
busybox=$(PATH=$PATH:/usr/bin:/bin command -v busybox) || { echo "demo: no busybox (Debian: busybox-static)" >&2; exit 1; }
place=$(mktemp -d); id=wherry-demo-$$
wherry() { "$wherry" --root "$place/state" "$@"; }
trap 'wherry delete --force $id >/dev/null 2>&1 || true; rm -rf "$place"' EXIT
say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }
show() { say "wherry $*"; wherry "$@"; }

mkdir -p "$place"/bundle/rootfs/{bin,dev,proc,sys,tmp,etc}
cp "$busybox" "$place/bundle/rootfs/bin/busybox"
for applet in sh ls sleep echo id hostname ps; do ln -s busybox "$place/bundle/rootfs/bin/$applet"; done
cd "$place/bundle"
say "wherry spec    # a configuration to begin with"
if ((EUID)); then wherry spec --rootless; else wherry spec; fi
"$(dirname "$wherry")/python" - config.json <<'P'
import json, sys
config = json.load(open(sys.argv[1]))
config["process"]["terminal"] = False
config["process"]["args"] = ["sh", "-c", "echo hello from $(hostname), pid $$; exec sleep 100"]
config["hostname"] = "the-demo"
json.dump(config, open(sys.argv[1], "w"), indent=1)
P

say "wherry plan    # what will be done to this host, before it is done"
wherry plan --bundle . >plan.txt; sed -n 1,12p plan.txt; echo "... $(wc -l <plan.txt) lines in all"
say "wherry create $id"; wherry create --bundle . "$id" </dev/null >out 2>&1 || { cat out; exit 1; }
show state "$id"
show start "$id"
for _ in $(seq 100); do [[ -s out ]] && break; sleep 0.02; done
cat out
show list
show kill "$id" KILL
for _ in $(seq 100); do [[ $(wherry state "$id") == *stopped* ]] && break; sleep 0.02; done
show delete "$id"
show list
echo; echo "demo: fine"
