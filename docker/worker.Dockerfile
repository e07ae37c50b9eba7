# A worker: the inference engine and the model that ships, no torch. Jobs come from Redis, videos from the store.
# For CUDA: --build-arg RUNTIME=gpu --build-arg BASE_IMAGE=<an image with CUDA 13, cuDNN 9 and Python 3.11 or newer>.
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE} AS build
WORKDIR /source
COPY . .
RUN python3 -c 'import ensurepip, venv' \
    || { apt-get update && apt-get install -y --no-install-recommends python3-venv; }
RUN python3 -m venv /opt/tal \
    && /opt/tal/bin/python -m pip install --no-cache-dir --constraint constraints.txt '.[s3]'
# Up to here the same as in api.Dockerfile, and built once for both.
ARG RUNTIME=cpu
RUN /opt/tal/bin/python -m pip install --no-cache-dir --constraint constraints.txt ".[${RUNTIME},s3]"

FROM ${BASE_IMAGE}
RUN python3 --version || { apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*; }
RUN useradd --system --uid 10001 --home-dir /var/lib/tal tal \
    && install -d -o tal -g tal /var/lib/tal /var/lib/tal/store /var/lib/tal/models
COPY --from=build /opt/tal /opt/tal
ENV PATH=/opt/tal/bin:$PATH PYTHONUNBUFFERED=1 TAL_HOME=/var/lib/tal HOME=/tmp TAL_METRICS_PORT=9100
USER tal
EXPOSE 9100
HEALTHCHECK --interval=5s --timeout=5s --start-period=120s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9100/readyz', timeout=4)"]
ENTRYPOINT ["tal"]
CMD ["worker"]
