#!/bin/sh
# Fails when the generated code in the repository is not what proto/ generates now.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT

"$root/tests/generate_proto.sh" "$fresh/arkgate"
cp "$root/src/arkgate/_proto/__init__.py" "$fresh/arkgate/_proto/__init__.py"
if ! diff -r --exclude=__pycache__ "$root/src/arkgate/_proto" "$fresh/arkgate/_proto" >&2; then
    echo "src/arkgate/_proto is not what proto/ generates: run \`make proto\` and commit the result." >&2
    exit 1
fi
