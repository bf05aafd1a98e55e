# compare: no, buildah 1.28 has no here-documents
FROM box
RUN <<EOF
#!/bin/sh
echo $0 | head -c 4 > /name
EOF
