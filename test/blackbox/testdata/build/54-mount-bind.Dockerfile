# compare: no, buildah leaves the mount's target in the image
FROM box AS o
RUN echo in > /in
FROM box
RUN --mount=from=o,source=/in,target=/mnt/in cp /mnt/in /got
