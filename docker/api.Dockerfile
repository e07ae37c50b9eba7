# The HTTP API: no torch, no inference engine, no models. One process; scale by replicas.
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE} AS build
WORKDIR /source
COPY . .
RUN python3 -c 'import ensurepip, venv' \
    || { apt-get update && apt-get install -y --no-install-recommends python3-venv; }
RUN python3 -m venv /opt/tal \
    && /opt/tal/bin/python -m pip install --no-cache-dir --constraint constraints.txt '.[s3]'
RUN rm -rf /opt/tal/lib/python3*/site-packages/models/bundles

FROM ${BASE_IMAGE}
RUN useradd --system --uid 10001 --home-dir /var/lib/tal tal \
    && install -d -o tal -g tal /var/lib/tal /var/lib/tal/store /var/lib/tal/models
COPY --from=build /opt/tal /opt/tal
ENV PATH=/opt/tal/bin:$PATH PYTHONUNBUFFERED=1 TAL_HOME=/var/lib/tal HOME=/tmp
USER tal
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]
ENTRYPOINT ["tal"]
CMD ["serve", "--host", "0.0.0.0", "--no-worker"]
