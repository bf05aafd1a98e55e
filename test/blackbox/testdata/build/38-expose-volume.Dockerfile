# compare: no, buildah makes the directories of VOLUME, Docker does not
FROM box
EXPOSE 80 443/tcp 53/udp
VOLUME /v1 /v2
