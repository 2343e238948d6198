# docker build -t brainjax .
# docker build -t brainjax:cuda --build-arg EXTRAS=cuda .
# docker run --rm -v "$PWD:/data" brainjax demo --out /data/demo
FROM python:3.11-slim

# Optional dependencies of pyproject.toml, joined by commas.
ARG EXTRAS=""

WORKDIR /opt/brainjax
COPY pyproject.toml constraints-py311.txt README.md LICENSE ./
COPY brainjax brainjax
COPY configs configs
RUN pip install --no-cache-dir -c constraints-py311.txt \
    ".${EXTRAS:+[${EXTRAS}]}"

RUN useradd --create-home brainjax && install -d -o brainjax /data
USER brainjax
WORKDIR /data
ENTRYPOINT ["brainjax"]
CMD ["--help"]
