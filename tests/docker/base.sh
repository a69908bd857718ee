#!/bin/sh
# The base image caligo-base:bookworm, from Debian's packages alone: no image registry is asked. Needs root, debootstrap
# and docker; does nothing where the image is there.
set -eu
image=caligo-base:bookworm
docker image inspect "$image" >/dev/null 2>&1 && exit 0
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root/rootfs"
rm -rf "$root"/rootfs/var/cache/apt/* "$root"/rootfs/var/lib/apt/lists/*
tar -C "$root/rootfs" -c . | docker import --change 'CMD ["python3"]' - "$image"
