FROM box AS s
FROM scratch
COPY --from=s /bin /bin
COPY a.txt /
