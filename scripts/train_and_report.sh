#!/bin/sh
# Trains a recipe, evaluates it, makes its pictures.
# usage: train_and_report.sh RECIPE RUN [KEY=VALUE | --data-dir FOLDER | other options of vaekit train]...
set -eu
if [ $# -lt 2 ]; then
  echo "usage: $0 RECIPE RUN [KEY=VALUE]... [--data-dir FOLDER]" >&2
  exit 2
fi
recipe=$1
run=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
"$here/vaekit" train "$recipe" "$@" --out "$run"
"$here/vaekit" evaluate "$run"
"$here/vaekit" pictures "$run"
