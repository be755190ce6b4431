#!/bin/sh
# Installs the Debian packages that the build needs and that are missing. Where there is no apt-get it only says so: the
# build then looks for what it needs by itself and fetches asmjit, abseil and GoogleTest at pinned versions.
# usage: system_packages.sh PYTHON
set -eu
python=$1

needed="g++ cmake ninja-build libasmjit-dev libabsl-dev libgtest-dev ccache"
if command -v "$python" >/dev/null 2>&1; then
  "$python" -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' ||
    needed="$needed python3-dev"
  "$python" -c 'import ensurepip, venv' 2>/dev/null || needed="$needed python3-venv"
else
  needed="$needed python3 python3-dev python3-venv"
fi

if ! command -v apt-get >/dev/null 2>&1; then
  for tool in cmake ninja c++; do
    command -v $tool >/dev/null 2>&1 || { echo "framejit: $tool is missing, and this system has no apt-get to install it with" >&2; exit 1; }
  done
  exit 0
fi

missing=
for package in $needed; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

as_root=
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null 2>&1 || { echo "framejit: install these packages first:$missing" >&2; exit 1; }
  as_root=sudo
fi
echo "framejit: installing system packages:$missing"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get -qq update </dev/null
$as_root apt-get -qq install --yes --no-install-recommends $missing </dev/null >/dev/null
