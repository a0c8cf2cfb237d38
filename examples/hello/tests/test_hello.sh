#!/bin/sh
# The greeting names whom it greets.
out=$(sh "$(dirname "$0")/../run.sh" agent)
[ "$out" = "Hello, agent!" ] && echo ok
