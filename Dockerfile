# syntax=docker/dockerfile:1
#   docker build -t nativetok .                          the CPU image
#   docker build -t nativetok:cuda --target cuda .       with CUDA 12 and cuDNN 9, x86-64 only
ARG NODE_IMAGE=node:24.21.0-bookworm-slim
ARG CUDA_IMAGE=nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04

FROM ${NODE_IMAGE} AS dependencies
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# No install scripts: the image already has Node, and the packages of sharp and ONNX Runtime contain their CPU binaries.
# ONNX Runtime's package has binaries for six platforms; the image keeps only its own.
RUN npm ci --omit=dev --no-audit --no-fund \
  && rm -rf node_modules/node-linux-* node_modules/.bin/node \
  && find node_modules/onnxruntime-node/bin -mindepth 3 -maxdepth 3 ! -path "*/linux/$(node -p process.arch)" \
    -exec rm -r {} +

FROM ${NODE_IMAGE} AS playground
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY web web
COPY test/fixtures/photos test/fixtures/photos
RUN node web/build.ts

FROM dependencies AS cuda-dependencies
# ONNX Runtime's CUDA provider is too large for npm, so the package's own script fetches it. TensorRT is not used.
RUN ONNXRUNTIME_NODE_INSTALL=true node node_modules/onnxruntime-node/script/install.js \
  && rm node_modules/onnxruntime-node/bin/napi-v6/linux/x64/libonnxruntime_providers_tensorrt.so

FROM ${CUDA_IMAGE} AS cuda
RUN apt-get update && apt-get install -y --no-install-recommends libjemalloc2 && rm -rf /var/lib/apt/lists/*
COPY --from=dependencies /usr/local/bin/node /usr/local/bin/node
WORKDIR /app
COPY package.json openapi.yaml LICENSE NOTICE.md start.sh ./
COPY --from=cuda-dependencies /app/node_modules node_modules
COPY models models
COPY bin bin
COPY src src
COPY --from=playground /app/web/dist web/dist
ENV NODE_ENV=production NATIVETOK_HOST=0.0.0.0 NATIVETOK_PORT=8080 NATIVETOK_PROVIDER=cuda \
  NATIVETOK_CACHE=/var/cache/nativetok NODE_COMPILE_CACHE=/var/cache/node
RUN install -d -o 1000 -g 1000 $NATIVETOK_CACHE $NODE_COMPILE_CACHE
USER 1000:1000
# Compiled code, apart from the cache, over which a volume may lie. Optimised graphs fit one kind of processor, so the first
# start makes them.
RUN ./start.sh --help > /dev/null && bin/nativetok tokenize --help > /dev/null && node --expose-gc src/inference/engine/child.ts
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["node", "-e", "fetch('http://127.0.0.1:' + process.env.NATIVETOK_PORT + '/health/ready').then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
CMD ["./start.sh"]

FROM ${NODE_IMAGE} AS cpu
RUN apt-get update && apt-get install -y --no-install-recommends libjemalloc2 && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY package.json openapi.yaml LICENSE NOTICE.md start.sh ./
COPY --from=dependencies /app/node_modules node_modules
COPY models models
COPY bin bin
COPY src src
COPY --from=playground /app/web/dist web/dist
ENV NODE_ENV=production NATIVETOK_HOST=0.0.0.0 NATIVETOK_PORT=8080 NATIVETOK_PROVIDER=cpu \
  NATIVETOK_CACHE=/var/cache/nativetok NODE_COMPILE_CACHE=/var/cache/node
RUN install -d -o 1000 -g 1000 $NATIVETOK_CACHE $NODE_COMPILE_CACHE
USER 1000:1000
# Compiled code, apart from the cache, over which a volume may lie. Optimised graphs fit one kind of processor, so the first
# start makes them.
RUN ./start.sh --help > /dev/null && bin/nativetok tokenize --help > /dev/null && node --expose-gc src/inference/engine/child.ts
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["node", "-e", "fetch('http://127.0.0.1:' + process.env.NATIVETOK_PORT + '/health/ready').then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
CMD ["./start.sh"]
