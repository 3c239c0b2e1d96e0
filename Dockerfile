# Two targets, `service` and `trainer`. The dependencies are installed once, in a stage of their own, into a virtual environment
# without pip; the images are that, the code and the shipped model.
ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS dependencies
COPY requirements/trainer.txt /tmp/
RUN python -m venv --without-pip /opt/folio \
    && python -m pip --python /opt/folio/bin/python install --no-cache-dir --disable-pip-version-check --require-hashes -r /tmp/trainer.txt

FROM python:${PYTHON_VERSION}-slim AS base
ENV PATH=/opt/folio/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp/matplotlib
# One user for both targets: what the trainer writes into the models volume the service may read. A new volume takes the shipped
# model and its owner from the image.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin folio
COPY --from=dependencies /opt/folio /opt/folio
WORKDIR /app
COPY trainer/ trainer/
COPY --chown=folio:folio models/ /models/
VOLUME /models
USER folio

FROM base AS trainer
ENV TRAINER_MODELS_DIR=/models
ENTRYPOINT ["python", "-m", "trainer"]

FROM base AS service
ENV SERVICE_MODELS_DIR=/models SERVICE_HOST=0.0.0.0 SERVICE_PORT=8000
COPY service/ service/
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"SERVICE_PORT\"]}/readyz')"]
CMD ["python", "-m", "service"]
