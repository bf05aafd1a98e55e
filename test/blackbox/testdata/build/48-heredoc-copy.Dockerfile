# compare: no, buildah 1.28 has no here-documents
FROM box
ENV N=value
COPY <<EOF /made
N is $N
EOF
COPY <<'EOF' /raw
N is $N
EOF
