FROM box
WORKDIR /a/b
WORKDIR c
RUN pwd > out
