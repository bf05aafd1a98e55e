# compare: no, buildah 1.28 ignores SHELL in CMD
FROM box
SHELL ["/bin/sh", "-ec"]
RUN echo $0 > /s; true
CMD echo x
