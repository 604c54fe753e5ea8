#!/usr/bin/env bash
# describe_config.sh [QATTRAIN] -- writes what is made from the program's config keys: configs/schema.json and the table
# of docs/configuration.md. To be run after a key or a registered name was added; QATTRAIN is build/cpu/qattrain.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

program=${1:-build/cpu/qattrain}
page=docs/configuration.md

schema=$("$program" --schema)
table=$("$program" --explain=all)
printf '%s\n' "$schema" >configs/schema.json
TABLE=$table awk '
  /^\| key \|/ { print ENVIRON["TABLE"]; skipping = 1 }
  !/^\|/ { skipping = 0 }
  !skipping { print }' "$page" >"$page.new"
mv "$page.new" "$page"
