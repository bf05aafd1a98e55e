# compare: no, its cache is the machine's
FROM box
RUN --mount=type=cache,target=/c echo x > /c/y && cp /c/y /y
