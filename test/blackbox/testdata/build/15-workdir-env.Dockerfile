FROM box
ENV D=/deep/er
WORKDIR $D
RUN touch here
