FROM box
RUN mkdir -m 777 /open
USER 77:88
RUN echo $(id -u):$(id -g) > /open/id
