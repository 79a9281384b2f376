#!/bin/sh
# Plays pip. What a test wants of `pip download` is in FAKE_PIP, as shell commands that may use $dest (where wheels
# go) and $FAKE_WHEEL (a wheel to put there).
if [ "$1" = --version ]; then
    echo "pip 0 (fake)"
    exit 0
fi
[ "$1" = download ] || exit 64
while [ $# -gt 0 ]; do
    if [ "$1" = --dest ]; then dest=$2; fi
    last=$1
    shift
done
[ "$last" = "tiny-package==1.0" ] || exit 65
eval "$FAKE_PIP"
