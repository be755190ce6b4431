#!/bin/sh
# Checks the interpreter, and installs the Debian packages that the build needs and that are missing. Where they cannot
# be installed it says so in one line, and goes on if the build can do without: ccache only saves time, and asmjit,
# abseil and GoogleTest are then fetched at pinned versions.
# usage: system_packages.sh PYTHON
set -eu
python=$1
needed=
optional=

stop() {
  echo "framejit: $*" >&2
  exit 1
}

# A pyenv shim exists for interpreters that are not active too, so that only running it tells.
have_python() { "$python" -c '' >/dev/null 2>&1; }

check_python() {
  version=$("$python" -c 'import platform; print(platform.python_version())')
  case $version in
    3.11.* | 3.12.* | 3.13.*) ;;
    *) stop "Python 3.11, 3.12 or 3.13 is needed and $python is $version; run make with PYTHON=python3.11" ;;
  esac
}

# need_python PACKAGE WHAT: only Debian's own interpreters have such packages.
need_python() {
  case $python in
    python3 | python3.1[123] | /usr/bin/python3 | /usr/bin/python3.1[123]) needed="$needed $(basename "$python")-$1" ;;
    *) stop "$python comes without $2" ;;
  esac
}

if have_python; then
  check_python
  "$python" -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    need_python dev "the C headers"
  "$python" -c 'import ensurepip, venv' 2>/dev/null || need_python venv "the modules ensurepip and venv"
else
  case $python in
    python3 | python3.1[123]) needed="$needed $python $python-dev $python-venv" ;;
    *) stop "$python cannot be run; run make with PYTHON=python3.11" ;;
  esac
fi
command -v c++ >/dev/null 2>&1 || [ -n "${CXX:-}" ] || needed="$needed g++"
command -v cmake >/dev/null 2>&1 || needed="$needed cmake"
command -v ninja >/dev/null 2>&1 || needed="$needed ninja-build"
command -v ccache >/dev/null 2>&1 || optional="$optional ccache"

if ! command -v apt-get >/dev/null 2>&1; then
  [ -z "$needed" ] || stop "this system has no apt-get to install these with; install what they contain:$needed"
  exit 0
fi
for package in libasmjit-dev libabsl-dev libgtest-dev; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || optional="$optional $package"
done
missing="$needed$optional"
[ -z "$missing" ] && exit 0

# cannot WHY: goes on without what is optional.
cannot() {
  [ -z "$needed" ] || stop "$1; as root, run: apt-get install$missing"
  echo "framejit: going on without these packages ($1):$missing" >&2
  exit 0
}

as_root=
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null 2>&1 || cannot "this user is not root and there is no sudo"
  sudo -n true 2>/dev/null || [ -t 0 ] || cannot "sudo asks for a password and there is no terminal"
  as_root=sudo
fi
echo "framejit: installing system packages:$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt_get="env DEBIAN_FRONTEND=noninteractive apt-get -qq"
$as_root $apt_get update >/dev/null 2>&1 </dev/null || true # a list that is out of date may still do
$as_root $apt_get install --yes --no-install-recommends $missing >"$log" 2>&1 </dev/null || {
  cat "$log" >&2
  cannot "apt-get could not install them"
}
have_python || stop "$python cannot be run after its packages were installed"
check_python
