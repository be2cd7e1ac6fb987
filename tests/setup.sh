#!/usr/bin/env bash
# Sees to the Debian packages and the Node package that the tests need, then runs the tests: tests/setup.sh COMMAND…
# As root it installs what is missing; otherwise it prints the line that does, and what needs them is skipped.
set -euo pipefail

needed=(curl:curl node:nodejs npm:npm redis-server:redis-server chromium:chromium zbarimg:zbar-tools
  nginx:nginx-light caddy:caddy systemd-analyze:systemd openssl:openssl)
missing=()
compgen -G "/usr/lib/postgresql/*/bin/postgres" >/dev/null || missing+=(postgresql)
for pair in "${needed[@]}"; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ca-certificates "${missing[@]}"
  else
    echo "some tests are skipped; to run them: sudo apt-get install ${missing[*]}" >&2
  fi
fi

# The client that the tests buy with, and what looks at the pages' accessibility.
for node in tests/clients/node tests/browser/node; do
  if command -v npm >/dev/null && [ ! $node/node_modules/.ready -nt $node/package-lock.json ]; then
    echo "installing into $node …"
    (cd $node && npm ci --silent --no-audit --no-fund --ignore-scripts)
    touch $node/node_modules/.ready
  fi
done
exec "$@"
