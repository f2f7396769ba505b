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
exec node "$(dirname "$0")/src/server.ts" "$@"
