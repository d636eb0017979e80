#!/bin/sh
# MNIST with the small MLP: train, evaluate, pictures.
# usage: quick_mnist.sh [RUN [KEY=VALUE | --data-dir FOLDER]...]     RUN defaults to runs/quick-mnist
set -eu
run=${1:-runs/quick-mnist}
[ $# -eq 0 ] || shift
exec "$(dirname "$0")/train_and_report.sh" mnist-mlp "$run" "$@"
