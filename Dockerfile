# The service: `docker build -t qin .` after `dvc repro`, then `docker run -p 8000:8000 qin`.
# It holds the package and the artifacts, neither the log nor the pipeline. tests/serving/test_dockerfile.py goes through
# its steps in an empty folder.
FROM python:3.11-slim

# PyTorch's CPU wheel depends on GNU's OpenMP, LightGBM's library too.
RUN apt-get update && apt-get install --no-install-recommends -y libgomp1 && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home qin
WORKDIR /srv/qin

COPY pyproject.toml constraints.txt README.md LICENSE ./
# Another index of wheels, such as PyTorch's for CPUs.
ARG PIP_EXTRA_INDEX_URL=
COPY qin ./qin
COPY stages ./stages
RUN pip install --no-cache-dir --constraint constraints.txt "torch==2.13.0" ".[serve]"

COPY artifacts ./artifacts
RUN chown -R qin /srv/qin
USER qin

EXPOSE 8000
HEALTHCHECK --interval=10s --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready')"]
CMD ["qin", "serve", "--artifacts", "artifacts", "--host", "0.0.0.0", "--port", "8000"]
