FROM box
RUN ["/bin/sh", "-c", "echo $0 > /zero"]
