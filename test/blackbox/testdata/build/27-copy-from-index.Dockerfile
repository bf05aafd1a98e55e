FROM box
RUN echo one > /one
FROM box
COPY --from=0 /one /two
