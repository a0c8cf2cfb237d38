#!/bin/sh
# Prints one greeting per name given; with no names, greets the world.
for name in "${@:-world}"; do
    echo "Hello, $name!"
done
