#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` where nothing has been prepared: a minimal Debian root, as root, who installs what is missing, and as an ordinary
# user, who is told what is missing and then, once it is there, runs what needs no root.
#   tests/tools/minimal-root.sh REPORTS    writes REPORTS/minimal.json and, of each suite in there, REPORTS/minimal-USER-SUITE.json
set -uo pipefail
cd "$(dirname "$0")/../.."
reports=$1
count() { "${WHERRY_VENV:-.venv}/bin/python" tests/tools/report.py single "$reports/minimal.json" "minimal: $1" "$2"; }
rm -f "$reports"/minimal*.json
root=$(mktemp -d /var/tmp/wherry-minimal.XXXXXX)
trap 'rm -rf --one-file-system "$root"' EXIT
PACKAGES=make,cmake,ninja-build,ca-certificates,uidmap # what a user has to install by hand; setup.sh looks after the rest

mirror=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Identifier: Packages' | awk '$1 == "Debian" && !/security/ {print $2; exit}')
if [[ -z $mirror ]] || ! command -v mmdebstrap >/dev/null || ! mmdebstrap --quiet --aptopt='Acquire::Check-Valid-Until "false"' --variant=minbase \
  --include=$PACKAGES bookworm "$root/debian" "deb $mirror bookworm main"; then
  echo "SKIPPED, LOUDLY: no Debian root can be made here (no mirror, or no mmdebstrap); nothing was tested on a bare Debian"
  count "the Debian root" skipped
  exit 0
fi

# the registries as this machine is set up for them
cp /etc/resolv.conf /etc/hosts "$root/debian/etc/"
for file in /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do [[ -e $file ]] && cp -L "$file" "$root/debian$file"; done
{ env | grep -E '^(PIP_|https?_proxy|HTTPS?_PROXY|no_proxy|NO_PROXY|SSL_CERT)' || true; } >"$root/environment"
chroot "$root/debian" useradd --create-home --shell /bin/bash tester

# inside USER SCRIPT: mount and pid namespaces of its own, so that nothing of it stays
inside() {
  unshare --mount --pid --fork --kill-child --propagation private /bin/bash -c '
    set -e; root=$1 user=$2 script=$3 home=/root
    mount --bind "$root/debian" "$root/debian"; mount --rbind /dev "$root/debian/dev"; mount --rbind /sys "$root/debian/sys"
    mount -t proc proc "$root/debian/proc"
    for place in ${PIP_FIND_LINKS-}; do
      if [[ -d $place ]]; then mkdir -p "$root/debian$place"; mount --bind -o ro "$place" "$root/debian$place"; fi
    done
    mapfile -t environment <"$root/environment"
    [[ $user == root ]] || home=/home/$user
    # no chroot: a process in one may not make a user namespace
    cd "$root/debian"; mkdir -p .host; pivot_root . .host
    exec /usr/bin/env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin LC_ALL=C.UTF-8 HOME=$home USER=$user "${environment[@]}" \
      /bin/bash -c "umount -l /.host && exec setpriv --reuid $user --regid $user --init-groups /bin/bash -c \"cd ~/src && $script\""' bash "$root" "$@"
}
export -f inside
export root

# try NAME USER SCRIPT
try() {
  local name=$1; shift
  echo "-- minimal: $name"
  if timeout 1200 bash -c 'inside "$@"' bash "$@"; then count "$name" passed; else count "$name" failed; fi
}

# start USER SCRIPT: at the same time as what follows; finish USER waits for it
declare -A running
start() {
  timeout 1200 bash -c 'inside "$@"' bash "$@" >"$reports/minimal-$1.log" 2>&1 </dev/null &
  running[$1]=$!
}
finish() {
  if wait "${running[$1]}"; then count "make test as $1" passed; else count "make test as $1" failed; fi
  echo "-- minimal: make test as $1"
  cat "$reports/minimal-$1.log"
  collect "$1" "${homes[$1]}"
}

# What the suites in there counted is this run's as well.
collect() {
  local file
  for file in "$2"/src/build/reports/*.json; do [[ -e $file ]] && cp "$file" "$reports/minimal-$1-${file##*/}"; done
}

declare -A homes=([root]=$root/debian/root [tester]=$root/debian/home/tester)
for user in root tester; do
  mkdir -p "${homes[$user]}/src"
  git ls-files -co --exclude-standard -z | tar --null -T - -cf - | tar -xf - -C "${homes[$user]}/src"
  chroot "$root/debian" chown -R $user: "${homes[$user]#"$root/debian"}"
done
try "an ordinary user is told what to install" tester "make test 2>&1 | tee /tmp/said; ((PIPESTATUS[0] == 2)) && grep -q 'as root: apt-get install gcc' /tmp/said"
for user in root tester; do try "make demo as $user" $user "make demo"; done
# The two run at the same time, each mostly on one processor. All but one of make test's suites: the second way (verbs in Python) takes minutes,
# and what is different here is not in it. v2 and engines cannot be had here, and have to say so.
suites='lint unit c front v2 shim engines'
for user in root tester; do start $user "make test SUITES='$suites'"; done
for user in root tester; do finish $user; done
