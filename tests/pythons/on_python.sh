#!/bin/sh
# Installs what serving needs, and of the rest only what the tests themselves use, for the interpreter $1; runs them there.
set -eu
version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
venv=.venv-$version
if [ ! -f "$venv/.installed" ] || [ constraints.txt -nt "$venv/.installed" ] || [ pyproject.toml -nt "$venv/.installed" ]; then
    "$1" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --constraint constraints.txt --editable '.[cpu,s3]' 'moto[server]' trustme tuspy \
        pytest pytest-timeout hypothesis onnx psutil h5py matplotlib
    touch "$venv/.installed"
fi
echo "serving tests on Python $version"
export TAL_TESTS_WITHOUT_TORCH=1
"$venv/bin/python" -m pytest tests/service tests/models tests/exporters tests/training -m "not slow and not needs_redis" -q -p no:cacheprovider
