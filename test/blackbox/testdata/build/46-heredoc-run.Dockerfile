# compare: no, buildah 1.28 has no here-documents
FROM box
RUN <<EOF
set -e
echo one > /1
echo two > /2
EOF
