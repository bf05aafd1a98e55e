# compare: no, buildah 1.28 has no --exclude
FROM box
COPY --exclude=*.txt --exclude=sub . /e/
