# What the scripts share; sourced by bash, after `set -euo pipefail`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sedpa

# Packages (Debian and Ubuntu names) that every build needs.
build_packages=(g++ cmake ninja-build pkg-config ccache libfmt-dev nlohmann-json3-dev libpcre2-dev
                libutf8proc-dev libcli11-dev libopenblas-dev liblapacke-dev)

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

have_package() {
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Installs those of the named packages that are not there; asks nothing. Where there is no apt, the
# build says what it misses.
need_packages() {
  command -v apt-get >/dev/null || return 0
  local package missing=() as_root=()
  for package in "$@"; do
    have_package "$package" || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "not root and no sudo: install these packages first: ${missing[*]}"
    as_root=(sudo)
  fi
  say "Installing ${missing[*]}"
  local log
  log=$(mktemp)
  as_root+=(env DEBIAN_FRONTEND=noninteractive)
  # The package lists of a fresh image may be absent or old; those of a used machine mostly serve.
  if ! "${as_root[@]}" apt-get install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
    if ! { "${as_root[@]}" apt-get update &&
           "${as_root[@]}" apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1
    then
      cat "$log" >&2
      rm -f "$log"
      die "apt-get could not install: ${missing[*]}"
    fi
  fi
  rm -f "$log"
}

# Configures (once) and builds a preset: build_preset NAME [TARGET...]
build_preset() {
  local preset=$1 log
  shift
  log=$(mktemp)
  if [ ! -f "$root/build/$preset/build.ninja" ]; then
    if ! (cd "$root" && cmake --preset "$preset") >"$log" 2>&1; then
      cat "$log" >&2
      rm -f "$log"
      die "cmake could not configure the preset '$preset'"
    fi
  fi
  rm -f "$log"
  cmake --build "$root/build/$preset" ${1:+--target "$@"}
}
