# attn-surgery, which writes as you, and not as root:
#
#     docker build -t attn-surgery .
#     alias run='docker run --rm --user "$(id -u):$(id -g)" -e HOME=/tmp -v "$PWD:/data" attn-surgery'
#     run demo
#     run export MODEL --drop-attn 20-23 --output OUT
#
# Without a GPU, torch's index for CPUs saves gigabytes: --build-arg TORCH_INDEX=URL
FROM python:3.12-slim
COPY pyproject.toml README.md LICENSE /src/
COPY surgery /src/surgery
COPY evals /src/evals
COPY cli /src/cli
ARG TORCH_INDEX=
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch \
 && pip install --no-cache-dir /src
WORKDIR /data
ENTRYPOINT ["attn-surgery"]
