#!/usr/bin/env bash
# The tests on a new Debian 13 with its Python 3.13, or another command there:
#     tools/new_system.sh FOLDER [COMMAND ...]      # the command is `make test` where none is named
#     tools/new_system.sh FOLDER tools/newest_jax.sh
#     tools/new_system.sh FOLDER python3 -m tools.gpu_plan      # what pip would install there for a GPU
# FOLDER, empty or not there yet, gets a system by debootstrap with the packages below and nothing else, and a clone of
# this checkout's HEAD; the command runs in the clone. FOLDER is removed at the end, but with KEEP=1; one that was kept
# is used again. Wants root, debootstrap (apt-get install debootstrap) and 12 GB: torch comes with CUDA's libraries.
# Takes half an hour on two cores. MIRROR: a Debian mirror, else the one that this machine's apt uses where it is a
# Debian. SUITE=sid: Debian's newest instead, with Python 3.14.
# The last line says what was run and how it ended; the exit code is the command's.
set -euo pipefail
PACKAGES=python3,python3-venv,make,git,ca-certificates
SUITE=${SUITE:-trixie}

fail() { echo "$0: $1" >&2; exit 2; }
(($# >= 1)) || fail "name a folder: $0 FOLDER [COMMAND ...]"
((EUID == 0)) || fail "chroot wants root: run it with sudo"
command -v debootstrap > /dev/null || fail "no debootstrap: apt-get install debootstrap"
folder=$(realpath -m "$1")
shift
(($#)) || set -- make test
cd "$(dirname "$0")/.."

mirror() {  # the machine's own, else Debian's public one
    local own
    own=$(apt-get indextargets --format '$(ORIGIN)/$(LABEL) $(REPO_URI)' 2> /dev/null) || true
    own=$(awk '$1 == "Debian/Debian" { print $2; exit }' <<< "$own")
    echo "${MIRROR:-${own:-http://deb.debian.org/debian}}"
}

inside() {  # a command in the system, with mounts and processes of its own: none of either is left when it ends
    local passed=(HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 PIP_NO_CACHE_DIR=1) name
    for name in http_proxy https_proxy no_proxy PIP_INDEX_URL; do
        if [[ -n ${!name:-} ]]; then passed+=("$name=${!name}"); fi
    done
    unshare --mount --pid --fork --kill-child --propagation private bash -c '
        mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" || exit 1
        chroot "$0" env -i "$@"
        exit $?' "$folder" "${passed[@]}" "$@"  # bash stays the first process, which collects orphans
}

made=$folder/made_by_new_system
[[ -e $made || -z $(ls -A "$folder" 2> /dev/null) ]] || fail "$folder is not empty; name another folder"
if [[ -z ${KEEP:-} ]]; then trap 'rm -rf --one-file-system "$folder"' EXIT; fi
if [[ ! -e $made ]]; then
    debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$folder" "$(mirror)" > "$folder.log" 2>&1 ||
        fail "debootstrap failed: see $folder.log"
    mv "$folder.log" "$made"
fi

# How this machine reaches the network: its certificates, names and name servers.
for file in /etc/ssl/certs/ca-certificates.crt /etc/resolv.conf /etc/hosts; do
    if [[ -e $file ]]; then cp -L "$file" "$folder$file"; fi
done
rm -rf --one-file-system "$folder/root/checkout"
git clone --quiet --no-hardlinks . "$folder/root/checkout"
commit=$(git rev-parse --short HEAD)
log=$folder/root/command.log status=0
inside bash -c 'cd /root/checkout && exec "$@"' - "$@" 2>&1 | tee "$log" || status=$?
system="$(. "$folder/etc/os-release" && echo "$PRETTY_NAME"), $(inside python3 --version)"
closing=$(grep -E '[0-9]+ (passed|failed|error)' "$log" | tail -n 1 || true)
echo "$system, commit $commit, $*: ${closing:-no test was run} (exit code $status)"
exit "$status"
