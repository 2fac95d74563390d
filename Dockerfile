# SPDX-License-Identifier: Apache-2.0
# `make image` builds the static binary first; nothing is pulled from a registry.
FROM scratch
LABEL org.opencontainers.image.title="bucketring" \
      org.opencontainers.image.description="Rate limits for AI inference: requests, tokens, money and concurrency, decided together" \
      org.opencontainers.image.source="https://github.com/bucketring/bucketring" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY bin/bucketring /bucketring
COPY LICENSE NOTICE /
# For a container with 4 GiB of memory. It is how much Go may use before it collects
# garbage all the time: nine tenths of the limit of the container.
ENV GOMEMLIMIT=3600MiB
USER 65532:65532
EXPOSE 6470 6471
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/bucketring", "health", "--ready"]
ENTRYPOINT ["/bucketring"]
# --insecure, because the published ports of the container decide who can connect.
CMD ["serve", "--http", ":6470", "--grpc", ":6471", "--insecure"]
