#!/bin/sh
# Installs what serving needs, and no more, for the interpreter $1, and runs the serving tests there.
set -eu
version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
venv=.venv-$version
if [ ! -f "$venv/.installed" ] || [ constraints.txt -nt "$venv/.installed" ] || [ pyproject.toml -nt "$venv/.installed" ]; then
    "$1" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --constraint constraints.txt --editable '.[cpu]' pytest pytest-timeout onnx
    touch "$venv/.installed"
fi
echo "serving tests on Python $version"
"$venv/bin/python" -m pytest tests/serving -p no:cacheprovider
