#!/bin/sh
# The image caligo-prometheus:bookworm, Debian's Prometheus in place of the project's own image, which is in a registry.
# Needs apt, docker and caligo-base:bookworm; does nothing where the image is there.
set -eu
image=caligo-prometheus:bookworm
docker image inspect "$image" >/dev/null 2>&1 && exit 0
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
cd "$root"
apt-get download prometheus
dpkg -x prometheus_*.deb .
cat >Dockerfile <<'END'
FROM caligo-base:bookworm
COPY usr/bin/prometheus /bin/prometheus
RUN mkdir /prometheus && chown 65534:65534 /prometheus && chmod g+w /prometheus
USER 65534:65534
ENTRYPOINT ["/bin/prometheus"]
END
docker build --tag "$image" .
