#!/bin/sh
# Every picture of a run: reconstructions, samples, curves, interpolations, traversals, latent space.
# usage: all_pictures.sh RUN [--data-dir FOLDER]...
set -eu
if [ $# -lt 1 ]; then
  echo "usage: $0 RUN [--data-dir FOLDER]" >&2
  exit 2
fi
run=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
"$here/vaekit" pictures "$run" "$@"
"$here/vaekit" sample "$run" --sampler mixture "$@"
"$here/vaekit" interpolate "$run" "$@"
"$here/vaekit" traverse "$run" "$@"
"$here/vaekit" latents "$run" "$@"
"$here/vaekit" anomalies "$run" "$@"
if grep -qs '^  latent_dim: 2$' "$run/config.yaml"; then
  "$here/vaekit" sample "$run" --grid "$@"
fi
