FROM box
ARG A
ARG B=default
RUN echo "$A-$B" > /args
