# compare: no, buildah 1.28 has no --link
FROM box
COPY --link dir /linked/
RUN ls /linked > /list
