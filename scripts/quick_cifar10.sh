#!/bin/sh
# CIFAR-10 with a small convolutional network for a few epochs: train, evaluate, pictures.
# usage: quick_cifar10.sh [RUN [KEY=VALUE | --data-dir FOLDER]...]     RUN defaults to runs/quick-cifar10
set -eu
run=${1:-runs/quick-cifar10}
[ $# -eq 0 ] || shift
exec "$(dirname "$0")/train_and_report.sh" cifar10 "$run" \
  'model.network={kind: conv, widths: [32, 64, 128]}' training.epochs=5 training.warmup=100 "$@"
