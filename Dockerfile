# The service: API, worker and beat are the same image with different commands (docker-compose.yml).
# It does not contain torch and Megatron-Bridge: see Dockerfile.trainer.

FROM python:3.12-slim-bookworm AS build

RUN pip install --no-cache-dir uv==0.13.9 && python -m venv --without-pip /opt/venv
WORKDIR /app
COPY requirements/runtime.txt requirements/runtime.txt
RUN uv pip install --no-cache --python /opt/venv/bin/python --compile-bytecode -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY api api
COPY cli cli
COPY migrations migrations
COPY trainer trainer
COPY worker worker
# Editable, as in development: /app is the PYTHONPATH of local runs, and contains only the project.
RUN uv pip install --no-cache --python /opt/venv/bin/python --no-deps --editable . && python -m compileall -q .

FROM python:3.12-slim-bookworm

RUN groupadd --gid 10001 sft \
    && useradd --uid 10001 --gid sft --home-dir /data --no-create-home --shell /usr/sbin/nologin sft \
    && install --directory --owner sft --group sft --mode 0750 /data
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SFT_DATA_DIR=/data
WORKDIR /app
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=8)"]
CMD ["python", "-m", "api", "--host", "0.0.0.0", "--port", "8000"]
