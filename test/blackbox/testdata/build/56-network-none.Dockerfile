# compare: no, buildah's chroot isolation has the host's links in /sys
FROM box
RUN --network=none ls /sys/class/net > /net
