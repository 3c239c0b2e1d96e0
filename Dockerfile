# Two targets, `service` and `trainer`. Dependencies are installed in stages of their own, into a virtual environment without pip;
# an image is that, the code and the shipped model.
ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS environment
RUN python -m venv --without-pip /opt/folio
ENV INSTALL="python -m pip --python /opt/folio/bin/python install --no-cache-dir --disable-pip-version-check --require-hashes -r"

FROM environment AS service-environment
COPY requirements/service.txt /tmp/
RUN $INSTALL /tmp/service.txt

FROM environment AS trainer-environment
COPY requirements/trainer.txt /tmp/
RUN $INSTALL /tmp/trainer.txt

FROM python:${PYTHON_VERSION}-slim AS base
ENV PATH=/opt/folio/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# One user for both targets: what the trainer writes into the models volume the service may read. A new volume takes the shipped
# model and its owner from the image.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin folio
WORKDIR /app
COPY trainer/ trainer/
COPY --chown=folio:folio models/ /models/
VOLUME /models
USER folio

FROM base AS trainer
ENV TRAINER_MODELS_DIR=/models MPLCONFIGDIR=/tmp/matplotlib
COPY --from=trainer-environment /opt/folio /opt/folio
ENTRYPOINT ["python", "-m", "trainer"]

FROM base AS service
ENV SERVICE_MODELS_DIR=/models SERVICE_HOST=0.0.0.0 SERVICE_PORT=8000
COPY --from=service-environment /opt/folio /opt/folio
COPY service/ service/
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"SERVICE_PORT\"]}/readyz')"]
CMD ["python", "-m", "service"]
