# attn-surgery on the CPU:
#
#     docker build -t attn-surgery .
#     docker run --rm attn-surgery demo
#     docker run --rm -v "$PWD:/data" attn-surgery export MODEL --drop-attn 20-23 --output OUT
FROM python:3.12-slim
COPY pyproject.toml README.md LICENSE /src/
COPY surgery /src/surgery
COPY evals /src/evals
COPY cli /src/cli
RUN pip install --no-cache-dir '/src[gguf]'
WORKDIR /data
ENTRYPOINT ["attn-surgery"]
