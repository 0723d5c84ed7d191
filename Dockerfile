# The package with its configuration, for CPUs or NVIDIA GPUs: see docs/how-to/containers.md.
ARG DEVICE=cuda

FROM python:3.11-slim-bookworm AS cpu

# torch.compile needs a C compiler. CUDA's libraries come with PyTorch, the driver comes from the host.
FROM cpu AS cuda
# No versions: Debian keeps only the newest one of a package.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# The dependencies alone, so that a change of the code does not install them again.
FROM ${DEVICE} AS dependencies
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 DO_NOT_TRACK=1
# An index with other builds of PyTorch, such as those without CUDA.
ARG TORCH_INDEX=""
WORKDIR /build
COPY pyproject.toml constraints.txt ./
# The settings of pip, such as an index with a password, are a secret that stays out of the image.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-deps --index-url "$TORCH_INDEX" --constraint constraints.txt torch torchvision; \
    fi \
    && python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt

# A wheel and the configuration. The command refuses files with credentials.
FROM dependencies AS package
COPY README.md LICENSE ./
COPY src src
COPY conf conf
RUN --mount=type=secret,id=pip,target=/etc/pip.conf kedro package

FROM dependencies AS project
WORKDIR /project
# pyproject.toml and src make this folder a project, for `kedro`. The code itself is in the wheel.
RUN --mount=type=bind,from=package,source=/build,target=/package \
    pip install --no-deps /package/dist/*.whl \
    && tar --extract --no-same-owner --file /package/dist/conf-carvana_kedro.tar.gz \
    && cp /package/pyproject.toml . \
    && mkdir --parents src data conf/local \
    && chown --recursive 10001:10001 /project
# A number, so that Kubernetes sees that it is not root. HOME is a folder that any other user may write to as well.
USER 10001:10001
ENV HOME=/tmp USER=carvana
ENTRYPOINT ["carvana-kedro"]
CMD ["--help"]

# docker build --target serve: the page, which only this image can tell to be healthy.
FROM project AS serve
EXPOSE 8000
HEALTHCHECK --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
CMD ["serve", "--host", "0.0.0.0"]

# The last stage is the one that is built by default.
FROM project
