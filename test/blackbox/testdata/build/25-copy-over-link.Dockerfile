FROM box
RUN mkdir /real && ln -s /real /link
COPY a.txt /link/
