# compare: no, buildah leaves the mount's target in the image
FROM box
RUN --mount=type=tmpfs,target=/t touch /t/x && echo done > /done
