ARG IMG=box
ARG V=7
FROM $IMG
ARG V
ARG W=$V
RUN echo $V $W > /v
