FROM box
RUN mkdir -p /m/sub && echo old > /m/sub/file && echo keep > /m/keep
COPY dir /m
