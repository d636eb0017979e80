#!/bin/sh
# A VAE against a denoising autoencoder of the same network and budget.
# usage: compare_dae.sh [RECIPE [OUT [KEY=VALUE | --data-dir FOLDER]...]]     RECIPE defaults to mnist-mlp
set -eu
recipe=${1:-mnist-mlp}
out=${2:-runs/compare-dae-$(basename "$recipe" .yaml)}
[ $# -eq 0 ] || shift
[ $# -eq 0 ] || shift
exec "$(dirname "$0")/vaekit" compare-dae "$recipe" "$@" --out "$out"
