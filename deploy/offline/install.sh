#!/usr/bin/env bash
# Install m3lung-node from this folder, without the internet.
#
#   ./install.sh [PREFIX]                    into PREFIX (/opt/m3lung), a new or an existing environment
#   PYTHON=python3.11 ./install.sh           with an interpreter of your choice
#   EXPECT=<sha256> ./install.sh             … if the list of this folder has this digest, as it was
#                                            printed where the folder was made: carry it another way
#
# Every file is compared with its digest first, and pip takes nothing else than these wheels.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
prefix=${1:-/opt/m3lung}
[[ $prefix != -* ]] || { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }

fail() { echo "install.sh: $*" >&2; exit 1; }

cd "$here"
[[ -f SHA256SUMS ]] || fail "no SHA256SUMS here: this is no bundle"
if [[ -n ${EXPECT:-} ]]; then
  echo "$EXPECT  SHA256SUMS" | sha256sum --check --status || fail "SHA256SUMS is not the expected one"
fi
sha256sum --check --quiet --strict SHA256SUMS || fail "the bundle was altered or damaged"
# What is not on the list was put here by somebody else.
extra=$(comm -13 <(cut -c67- SHA256SUMS | sort) <(find wheels -type f | sort))
[[ -z $extra ]] || fail "not on the list: $extra"

read_bundle() { sed -n "s/^$1=//p" bundle.txt; }
wanted=$(read_bundle python)
python=${PYTHON:-python$wanted}
command -v "$python" >/dev/null || fail "no $python here: the wheels are for Python $wanted (PYTHON=…)"
found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[[ $found == "$wanted" ]] || fail "$python is Python $found, the wheels are for $wanted"
machine=$("$python" -c 'import platform; print(platform.machine())')
[[ $machine == "$(read_bundle machine)" ]] || fail "this is $machine, the wheels are for $(read_bundle machine)"
"$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python cannot make environments (Debian: python3-venv)"

[[ -x $prefix/bin/python ]] || "$python" -m venv "$prefix"
# Nothing of the machine's own pip settings: no index, no other place to look.
export PIP_CONFIG_FILE=/dev/null PIP_DISABLE_PIP_VERSION_CHECK=1
unset PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS
"$prefix/bin/python" -m pip install --quiet --no-index --find-links wheels --no-deps \
  --require-hashes -r requirements.txt
if [[ $(read_bundle kind) == whole ]]; then
  "$prefix/bin/python" -m pip check
fi
mkdir -p "$prefix/share/m3lung"
cp -r deploy "$prefix/share/m3lung/"
[[ ! -d site ]] || cp -r site "$prefix/share/m3lung/"

"$prefix/bin/m3lung" --version
echo "Installed in $prefix ($(read_bundle kind)). The documents: $prefix/share/m3lung/site/index.html"
echo "Next, as deploy/README.md says: user, node.toml, systemd units."
