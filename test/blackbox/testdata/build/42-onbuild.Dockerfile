# compare: no, buildah runs no triggers of a stage of the same file
FROM box AS base
ONBUILD RUN echo triggered > /t
FROM base
