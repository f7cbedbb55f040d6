# A server of one run: docker build -t resnet-jax-serve . && docker run --read-only --tmpfs /tmp \
#   -e RESNET_JAX_SERVE_TOKEN=... -v $PWD/runs/mine:/run-dir:ro -p 8000:8000 resnet-jax-serve
FROM python:3.11-slim

# The C++ convolutions are compiled once, here; the server itself needs no compiler then.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY resnet_jax ./resnet_jax
RUN pip install --no-cache-dir ".[serve]"

ENV RESNET_JAX_CACHE=/app/cache JAX_PLATFORMS=cpu
RUN python -c "from resnet_jax.ops import native; print('convolutions:', native.available() and native.status())"

RUN useradd --create-home --uid 10001 server && chown -R server /app/cache
USER server
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=120s --interval=10s CMD \
  ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=5)"]
ENTRYPOINT ["resnet-jax", "serve"]
CMD ["/run-dir", "--host", "0.0.0.0"]
