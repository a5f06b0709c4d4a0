# The engine, the simulator and the boards in one image; the command says which. Built from the lock, with hashes.
# syntax=docker/dockerfile:1
FROM python:3.12.11-slim-bookworm AS build
WORKDIR /build
RUN python -m venv /opt/livepulse
COPY requirements.lock pyproject.toml README.md ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/livepulse/bin/pip install --disable-pip-version-check --require-hashes -r requirements.lock
COPY schemas schemas
COPY sinks sinks
COPY flows flows
COPY grafana grafana
RUN /opt/livepulse/bin/pip install --disable-pip-version-check --no-deps --no-build-isolation .

FROM python:3.12.11-slim-bookworm
RUN groupadd --gid 10001 livepulse \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/livepulse --create-home --shell /usr/sbin/nologin livepulse
COPY --from=build --chown=root:root /opt/livepulse /opt/livepulse
ENV PATH=/opt/livepulse/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LIVEPULSE_LOG=json
USER 10001:10001
WORKDIR /var/lib/livepulse
VOLUME /var/lib/livepulse
STOPSIGNAL SIGTERM
ENTRYPOINT ["livepulse"]
CMD ["run"]
