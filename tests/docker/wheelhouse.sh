#!/bin/sh
# Fills wheelhouse/ with what the images install (the surrogate's CPU variant), so that they can be built without a
# network. Needs Python 3.11 with pip on x86-64; does nothing where the locks have not changed since.
set -eu
cd "$(dirname "$0")/../.."
locks="services/build.lock services/sampler/requirements.lock services/simulator/requirements.lock
services/orchestrator/requirements.lock services/surrogate/requirements-cpu.lock"
sum=$(cat $locks | sha256sum)
[ "$(cat wheelhouse/locks.sha256 2>/dev/null)" = "$sum" ] && exit 0
rm -rf wheelhouse
python=${PYTHON:-.venv/bin/python}
for lock in $locks; do
    "$python" -m pip download --quiet --require-hashes --no-deps --only-binary :all: --dest wheelhouse \
        --requirement "$lock"
done
"$python" -m pip download --quiet --no-deps --only-binary :all: --dest wheelhouse \
    --index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" "${TORCH:-torch==2.13.0}"
echo "$sum" >wheelhouse/locks.sha256
