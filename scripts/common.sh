# shellcheck shell=bash
# Sourced by the other scripts: moves to the repository root and defines how they talk.
# One line says what is going on, one line says why it cannot go on.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

say() { printf '== %s\n' "$*"; }

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

for folder in . build .venv out; do
  [[ ! -e $folder || -w $folder ]] ||
    die "$PWD/$folder is not writable by $(id -un): run as its owner, $(stat -c %U "$folder"), or give it to this user (chown -R)"
done
unset folder
