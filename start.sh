#!/bin/sh
# Starts the service with an allocator that suits it, and passes its flags on.
# glibc's allocator keeps memory for each thread and grows with batches of different sizes. jemalloc does not, and with
# huge pages it is as fast.
for jemalloc in /usr/lib/*/libjemalloc.so.2 /usr/lib64/libjemalloc.so.2 /usr/lib/libjemalloc.so.2; do
  if [ -f "$jemalloc" ]; then
    export LD_PRELOAD="${LD_PRELOAD:+$LD_PRELOAD:}$jemalloc"
    export MALLOC_CONF="${MALLOC_CONF:-oversize_threshold:0,thp:always}"
    break
  fi
done
export MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-2}" # for glibc's allocator
# Pixels and bodies are outside V8's heap but count when it decides to collect garbage: by default it would mark a heap that
# hardly changes twice a second under load. A young generation of 8 MB is as fast as the default 16 and saves 40 MB.
here="$(dirname "$0")"
# The playground is built when it is missing or older than its source; an image has it built, and no source.
page="$here/web/dist/index.html"
if [ -d "$here/web/src" ] && { [ ! -f "$page" ] || [ -n "$(find "$here/web/src" -newer "$page")" ]; }; then
  "$here/bin/node" "$here/web/build.ts"
fi
exec "$here/bin/node" --heap-growing-percent=200 --max-semi-space-size=8 "$here/src/server.ts" "$@"
