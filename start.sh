#!/bin/sh
# Starts the service with the allocator that suits it; what follows are the service's own flags.
# glibc's keeps memory apart for each thread and grows as batches of other sizes come. jemalloc does neither, and with
# huge pages costs no more time.
for jemalloc in /usr/lib/*/libjemalloc.so.2 /usr/lib64/libjemalloc.so.2 /usr/lib/libjemalloc.so.2; do
  if [ -f "$jemalloc" ]; then
    export LD_PRELOAD="${LD_PRELOAD:+$LD_PRELOAD:}$jemalloc"
    export MALLOC_CONF="${MALLOC_CONF:-oversize_threshold:0,thp:always}"
    break
  fi
done
export MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-2}" # glibc's, where there is no other
# Pixels and bodies lie outside of V8's heap but count when it decides to collect: at its own pace it would mark a heap that
# hardly changes twice a second under load. And 8 MB for what is young are as fast here as V8's own 16, for 40 MB less.
exec node --heap-growing-percent=200 --max-semi-space-size=8 "$(dirname "$0")/src/server.ts" "$@"
