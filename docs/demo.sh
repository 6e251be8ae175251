#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A container's life in a minute: docs/demo.sh [WHERRY]. As root, or as an ordinary user (in a user namespace). What cannot be done
# here (limits without writable cgroups, say) is named. Needs a static busybox.
set -euo pipefail
wherry=$(realpath "${1:-$(dirname "$0")/../.venv/bin/wherry}")
busybox=$(PATH=$PATH:/usr/bin:/bin command -v busybox) || { echo "demo: no busybox (Debian: busybox-static)" >&2; exit 2; }
place=$(mktemp -d); id=wherry-demo-$$
chmod 755 "$place" # the root of a user namespace walks here
manager=() # without cgroups that we may write: --cgroup-manager disabled
wherry() { "$wherry" --root "$place/state" "${manager[@]}" "$@"; }
trap 'wherry delete --force $id >/dev/null 2>&1 || true; rm -rf "$place"' EXIT
say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }

# ---- a bundle, made on the spot: busybox as root file system, wherry's own example configuration
mkdir -p "$place"/bundle/rootfs/{bin,dev,proc,sys,tmp,etc}
cp "$busybox" "$place/bundle/rootfs/bin/busybox"
for applet in sh ls sleep echo id hostname cat grep mount head wc tr; do ln -s busybox "$place/bundle/rootfs/bin/$applet"; done
cat >"$place/bundle/rootfs/bin/report" <<'S'
#!/bin/sh
echo "pid           $$"
echo "host name     $(hostname)"
echo "user          $(id)"
echo "mounts        $(wc -l </proc/self/mountinfo), among them $(mount | head -n 3 | while read -r what on where rest; do echo -n "$where ($what) "; done)"
grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
limit() { # the first of the files that is there, v1 or v2
  for file in "$@"; do [ -r "$file" ] && { cat "$file"; return; }; done
  echo "not to be seen in here"
}
echo "memory limit  $(limit /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max)"
echo "pids limit    $(limit /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max)"
S
chmod 755 "$place/bundle/rootfs/bin/report"
cd "$place/bundle"
if ((EUID)); then wherry spec --rootless; else wherry spec; fi

# what this host does not let us do is left out, and said
limits=1
if ((EUID)); then
  limits=; echo "demo: not root: in a user namespace, and without limits (they need cgroups that we may write)"
else
  writable=; for directory in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/memory/tasks; do [[ -w $directory ]] && writable=1; done
  if [[ -z $writable ]]; then limits=; manager=(--cgroup-manager disabled); echo "demo: no writable cgroups here: without limits"; fi
fi
LIMITS=$limits "$(dirname "$wherry")/python" - config.json <<'P'
import json, os, sys
config = json.load(open(sys.argv[1]))
config["process"].update(terminal=False, args=["sh", "-c", ". /bin/report; exec sleep 100"])
config["hostname"] = "the-demo"
config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["reboot", "kexec_load"], "action": "SCMP_ACT_ERRNO"}]}
if os.environ["LIMITS"]:
    config["linux"].setdefault("resources", {}).update(memory={"limit": 64 << 20}, pids={"limit": 50})
json.dump(config, open(sys.argv[1], "w"), indent=1)
P

milliseconds() { local began=$EPOCHREALTIME; "$@"; local ended=$EPOCHREALTIME; took=$(( (${ended/./} - ${began/./}) / 10 )); took=$((took / 100)).$(printf %02d $((took % 100))); }
again() { # one more life, now that the plan is known
  milliseconds wherry create --bundle . "$id" </dev/null >out 2>&1; create=$took
  milliseconds wherry start "$id"; start=$took
  wherry kill "$id" KILL; until [[ $(wherry state "$id") == *stopped* ]]; do sleep 0.02; done
  milliseconds wherry delete "$id"; delete=$took
}

say "wherry create, start    # what its first process sees from inside"
wherry create --bundle . "$id" </dev/null >out 2>&1 || { cat out; exit 1; }
wherry start "$id"
for _ in $(seq 100); do grep -q "^pids limit" out && break; sleep 0.02; done
cat out
wherry kill "$id" KILL
for _ in $(seq 200); do [[ $(wherry state "$id") == *stopped* ]] && break; sleep 0.02; done
wherry delete "$id"

say "wherry plan    # what is done to the host for that, step by step, and the field that each step comes from"
wherry plan . >plan.txt; sed -n 1,12p plan.txt | cut -c1-150; echo "... $(wc -l <plan.txt) lines in all"

again
say "wherry create, start, delete    # how long they took, the plan being known"
echo "create $create ms, start $start ms, delete $delete ms"
[[ -z $(wherry list -q) ]]
cat <<'T'

To try next:
    wherry                                    what there is
    wherry run --rootfs DIR -- sh             a shell in any root file system, no configuration
    wherry spec && wherry plan .              what would be done, before it is done
    python -c 'from wherry import run; print(run("DIR", ["echo", "hello"]))'
    podman --runtime $(realpath .venv/bin/wherry) run ...
T
