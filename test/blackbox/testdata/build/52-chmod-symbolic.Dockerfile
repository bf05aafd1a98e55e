# compare: no, buildah 1.28 takes numbers
FROM box
COPY --chmod=u=rwX,go=rX dir /s
