# docker build -t folio . && docker run -p 127.0.0.1:8000:8000 folio       serves the included model
# Two targets, `service` and `trainer`. PACKAGES names a lock in requirements/. For NVIDIA's GPUs: --build-arg PACKAGES=cuda for
# `service`, PACKAGES=gpu for `trainer`.
# Dependencies and the compiler are installed in separate stages. An image holds the environment, the code, the kernel's library and
# the included model.
ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS environment
RUN python -m venv --without-pip /opt/folio
ENV PIP="python -m pip --python /opt/folio/bin/python --disable-pip-version-check"
# Exactly what the lock says: --no-deps keeps pip from looking for newer releases.
ENV INSTALL="$PIP install --no-cache-dir --no-deps --require-hashes -r"

FROM environment AS service-environment
ARG PACKAGES=service
COPY requirements/${PACKAGES}.txt /tmp/packages.txt
# NumPy's own tests are a quarter of it.
RUN $INSTALL /tmp/packages.txt && $PIP check \
    && find /opt/folio -type d -path '*/numpy/*' -name tests -prune -exec rm -r {} +

FROM environment AS trainer-environment
ARG PACKAGES=trainer
COPY requirements/${PACKAGES}.txt /tmp/packages.txt
RUN $INSTALL /tmp/packages.txt && $PIP check

FROM environment AS kernel
COPY requirements/compiler.txt /tmp/packages.txt
RUN $INSTALL /tmp/packages.txt
COPY service/generation/kernel/ /kernel/
RUN /opt/folio/bin/python /kernel/build.py

FROM python:${PYTHON_VERSION}-slim AS base
ENV PATH=/opt/folio/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# One user for both targets: what the trainer writes into the models volume the service may read. A new volume takes the shipped
# model and its owner from the image.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin folio
WORKDIR /app
COPY trainer/ trainer/
COPY service/ service/
COPY --from=kernel /kernel/libfolio-* service/generation/kernel/
COPY --chown=10001:10001 models/ /models/
VOLUME /models
USER 10001:10001

FROM base AS trainer
ENV TRAINER_MODELS_DIR=/models MPLCONFIGDIR=/tmp/matplotlib
COPY --from=trainer-environment /opt/folio /opt/folio
ENTRYPOINT ["python", "-m", "trainer"]

FROM base AS service
# A published port does not arrive on a container's loopback, so `-p` alone decides who reaches the service. Set SERVICE_API_KEYS before
# you publish the port on other addresses than 127.0.0.1.
ENV SERVICE_MODELS_DIR=/models SERVICE_HOST=0.0.0.0 SERVICE_PORT=8000 SERVICE_WITHOUT_KEYS=true
COPY --from=service-environment /opt/folio /opt/folio
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"SERVICE_PORT\"]}/readyz')"]
CMD ["python", "-m", "service"]
