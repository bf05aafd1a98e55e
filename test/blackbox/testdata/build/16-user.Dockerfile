FROM box
RUN mkdir -m 777 /open
USER alice
RUN id -u > /open/uid; id -g > /open/gid
