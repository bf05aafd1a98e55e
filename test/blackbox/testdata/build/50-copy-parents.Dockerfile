# compare: no, buildah has no --parents
FROM box
COPY --parents dir/sub/file a.txt /p/
COPY --parents ./dir/./sub /q/
