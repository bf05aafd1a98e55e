FROM box
RUN mkdir -m 777 /open
USER app
RUN id -u > /open/uid; id -g > /open/gid
