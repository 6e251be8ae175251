#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A minimal Debian root with the documented packages and nothing else: `make demo` and the unit tests in it, as root and as an ordinary user.
#   tests/tools/minimal-root.sh REPORT.json
set -uo pipefail
cd "$(dirname "$0")/../.."
report=$1
count() { "${WHERRY_VENV:-.venv}/bin/python" tests/tools/report.py single "$report" "minimal: $1" "$2"; }
root=$(mktemp -d /var/tmp/wherry-minimal.XXXXXX)
trap 'rm -rf --one-file-system "$root"' EXIT
PACKAGES=make,gcc,libc6-dev,musl-tools,python3-dev,python3-venv,cmake,ninja-build,libseccomp2,busybox-static,ca-certificates,uidmap

mirror=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Identifier: Packages' | awk '$1 == "Debian" && !/security/ {print $2; exit}')
if [[ -z $mirror ]] || ! command -v mmdebstrap >/dev/null || ! mmdebstrap --quiet --aptopt='Acquire::Check-Valid-Until "false"' --variant=minbase \
  --include=$PACKAGES bookworm "$root/debian" "deb $mirror bookworm main"; then
  echo "SKIPPED, LOUDLY: no Debian root can be made here (no mirror, or no mmdebstrap); 'make demo' was not tested on a bare Debian"
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
    for place in /opt/wheels /opt/pypi /opt/pypi-more; do
      if [[ -d $place ]]; then mkdir -p "$root/debian$place"; mount --bind -o ro "$place" "$root/debian$place"; fi
    done
    mapfile -t environment <"$root/environment"
    [[ $user == root ]] || home=/home/$user
    # no chroot: a process in one may not make a user namespace
    cd "$root/debian"; mkdir -p .host; pivot_root . .host
    exec /usr/bin/env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin LC_ALL=C.UTF-8 HOME=$home USER=$user "${environment[@]}" \
      /bin/bash -c "umount -l /.host && exec setpriv --reuid $user --regid $user --init-groups /bin/bash -c \"cd ~/src && $script\""' bash "$root" "$@"
}

try() {
  local name=$1; shift
  echo "-- minimal: $name"
  if timeout 400 bash -c 'inside "$@"' bash "$@"; then count "$name" passed; else count "$name" failed; fi
}
export -f inside
export root
for user in root tester; do
  home=$root/debian/home/tester
  [[ $user == root ]] && home=$root/debian/root
  mkdir -p "$home/src"
  git ls-files -co --exclude-standard -z | tar --null -T - -cf - | tar -xf - -C "$home/src"
  chroot "$root/debian" chown -R $user: "${home#"$root/debian"}"
  try "make demo as $user" $user "make demo"
  try "unit tests as $user" $user "tests/tools/setup.sh test && .venv/bin/pytest -q -p no:cacheprovider tests/unit"
done
